// Block lists of a mask, made by kernels: classes by intervals, then by pairs, then lists of them, and classes from lists.
// RUN: heed-opt %s --attn-to-classifier --canonicalize --cse --classifier-to-nvidia --canonicalize --cse \
// RUN:   | FileCheck %s --implicit-check-not=func.func --implicit-check-not=_boxes

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!ids = !attn.tensor<[B, Skv], i32>

attn.variant @causal_variant() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}

// Four kernels of four warps. The argument block has only the fixed words, and one matrix is that of all batches and heads.
// CHECK-LABEL: llvm.func @causal_classify(
// CHECK-SAME:      %[[ARGS:[^:]+]]: !llvm.ptr {llvm.align = 8 : i64, llvm.byval = !llvm.array<34 x i64>, nvvm.grid_constant})
// CHECK-SAME:      heed.gpu_mask_code = {uses_batch = 0 : i64, uses_head = 0 : i64, warps = 4 : i64}
// CHECK-SAME:      nvvm.kernel, nvvm.maxntid = array<i32: 128>
// A lane has a row of blocks and a column (of as many as word 18 says): their queries and keys, by words 12 and 13.
// CHECK:         llvm.getelementptr %[[ARGS]][144]
// CHECK-NEXT:    %[[WORD:.+]] = llvm.load
// CHECK-NEXT:    %[[COLUMNS:.+]] = arith.trunci %[[WORD]]
// CHECK:           %[[EXISTS:.+]] = arith.cmpi slt, %{{.+}}, %[[COLUMNS]] : i32
// CHECK:           llvm.getelementptr %[[ARGS]][96]
// CHECK-NEXT:      %[[WORD:.+]] = llvm.load
// CHECK-NEXT:      %[[BLOCKQ:.+]] = arith.trunci %[[WORD]]
// CHECK-NEXT:      %[[Q0:.+]] = arith.muli %{{.+}}, %[[BLOCKQ]] : i32
// CHECK:           %[[Q1:.+]] = arith.addi %[[Q0]], %{{.+}} : i32
// CHECK:           llvm.getelementptr %[[ARGS]][104]
// CHECK-NEXT:      %[[WORD:.+]] = llvm.load
// CHECK-NEXT:      %[[BLOCKKV:.+]] = arith.trunci %[[WORD]]
// CHECK-NEXT:      %[[K0:.+]] = arith.muli %{{.+}}, %[[BLOCKKV]] : i32
// CHECK:           %[[K1:.+]] = arith.addi %[[K0]], %{{.+}} : i32
// CHECK:           %[[LASTK:.+]] = arith.subi %[[K1]], %c1_i32 : i32
// CHECK-DAG:       %[[FIRSTK64:.+]] = arith.extsi %[[K0]] : i32 to i64
// CHECK-DAG:       %[[LASTK64:.+]] = arith.extsi %[[LASTK]] : i32 to i64
// In a loop over rows their queries are sent to all lanes, and meet the keys that each lane has: 2 is full, 0 skipped.
// CHECK:           scf.while (%{{.+}} = %c0_i32) : (i32) -> i32
// CHECK:           ^bb0(%[[ROW:.+]]: i32):
// CHECK:             %[[BITS:.+]] = llvm.call_intrinsic "llvm.nvvm.shfl.sync.idx.i32"(%c-1_i32, %[[Q0]], %[[ROW]], %c31_i32)
// CHECK-NEXT:        %[[LOW:.+]] = arith.extui %[[BITS]]
// CHECK-NEXT:        %[[FIRSTQ64:.+]] = arith.ori %{{.+}}, %[[LOW]] : i64
// CHECK-COUNT-2:     "llvm.nvvm.shfl.sync.idx.i32"
// CHECK-NOT:         shfl
// CHECK:             %[[LASTQ64:.+]] = arith.ori
// CHECK-NEXT:        %[[LEAST:.+]] = arith.subi %[[FIRSTQ64]], %[[LASTK64]] : i64
// CHECK-NEXT:        %[[MOST:.+]] = arith.subi %[[LASTQ64]], %[[FIRSTK64]] : i64
// CHECK-NEXT:        %[[ALL:.+]] = arith.cmpi sge, %[[LEAST]], %c0_i64
// CHECK-NEXT:        %[[ANY:.+]] = arith.cmpi sge, %[[MOST]], %c0_i64
// CHECK-NEXT:        %[[SOME:.+]] = arith.extui %[[ANY]] : i1 to i32
// CHECK-NEXT:        %[[CLASS:.+]] = arith.select %[[ALL]], %c2_i32, %[[SOME]] : i32
// A full block that hangs over the end is partial where word 14 says so; what is neither is left open (3). A byte a lane.
// CHECK-NEXT:        %[[HASQ0:.+]] = llvm.call_intrinsic "llvm.nvvm.shfl.sync.idx.i32"(%c-1_i32, %[[Q0]], %[[ROW]], %c31_i32)
// CHECK-NEXT:        %[[HASQ1:.+]] = llvm.call_intrinsic "llvm.nvvm.shfl.sync.idx.i32"(%c-1_i32, %[[Q1]], %[[ROW]], %c31_i32)
// CHECK-NOT:         shfl
// CHECK:             arith.subi %[[HASQ1]], %[[HASQ0]] : i32
// CHECK:             %[[SHORT:.+]] = arith.ori
// CHECK:             llvm.getelementptr %[[ARGS]][112]
// CHECK:             %[[HANGS:.+]] = arith.andi %[[SHORT]], %{{.+}} : i1
// CHECK-NEXT:        %[[FULL:.+]] = arith.select %[[HANGS]], %c1_i32, %c2_i32 : i32
// CHECK-NEXT:        %[[ISPARTIAL:.+]] = arith.cmpi eq, %[[CLASS]], %c1_i32
// CHECK-NEXT:        %[[ISFULL:.+]] = arith.cmpi eq, %[[CLASS]], %c2_i32
// CHECK-NEXT:        %[[CLOSED:.+]] = arith.select %[[ISFULL]], %[[FULL]], %[[CLASS]] : i32
// CHECK-NEXT:        %[[STORED:.+]] = arith.select %[[ISPARTIAL]], %c3_i32, %[[CLOSED]] : i32
// CHECK:             scf.if %[[EXISTS]] {
// CHECK-NEXT:          %[[BYTE:.+]] = arith.trunci %[[STORED]] : i32 to i8
// CHECK-NEXT:          llvm.store %[[BYTE]], %{{.+}} {alignment = 1 : i64} : i8, !llvm.ptr<1>
// CHECK-NEXT:        }
// CHECK-NEXT:        arith.addi %[[ROW]], %c1_i32 : i32
// CHECK:         llvm.return

// Blocks of a row that are open (3), one after the other.
// CHECK-LABEL: llvm.func @causal_settle(
// CHECK-SAME:      llvm.byval = !llvm.array<34 x i64>
// CHECK-NOT:       heed.gpu_mask_code
// CHECK-SAME:      nvvm.kernel, nvvm.maxntid = array<i32: 128>
// CHECK:         %[[LANE:.+]] = arith.andi %{{.+}}, %c31_i32 : i32
// CHECK:           %[[BEFORE:.+]] = llvm.inline_asm {{.*}} "{ mov.b32 $0, 0; @$2 ld.global.u8 $0, [$1]; }", "=&r,l,b" %[[ADDRESS:.+]], %{{.+}} :
// CHECK-NEXT:      %[[ISOPEN:.+]] = arith.cmpi eq, %[[BEFORE]], %c3_i32
// CHECK:           %[[OPEN:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.ballot.sync"(%c-1_i32, %[[ISOPEN]])
// CHECK-NEXT:      %[[SETTLED:.+]]:2 = scf.while (%{{.+}} = %[[OPEN]], %{{.+}} = %[[BEFORE]])
// CHECK:           ^bb0(%[[LEFT:.+]]: i32, %[[OWN:.+]]: i32):
// CHECK-NEXT:        %[[PLACE:.+]] = math.cttz %[[LEFT]]
// First a pair a lane, 4 queries times 8 keys: done where some attend and some do not.
// CHECK:             %[[ROWPART:.+]] = arith.divui %[[LANE]], %c8_i32
// CHECK:             %[[SHARES:.+]] = arith.muli %{{.+}}, %[[ROWPART]]
// CHECK-NEXT:        %[[DISTANCE:.+]] = arith.divui %[[SHARES]], %c3_i32
// CHECK-NEXT:        %[[Q:.+]] = arith.addi %{{.+}}, %[[DISTANCE]]
// CHECK-NEXT:        %[[COLUMNPART:.+]] = arith.remui %[[LANE]], %c8_i32
// CHECK:             %[[SHARES:.+]] = arith.muli %{{.+}}, %[[COLUMNPART]]
// CHECK-NEXT:        %[[DISTANCE:.+]] = arith.divui %[[SHARES]], %c7_i32
// CHECK-NEXT:        %[[KV:.+]] = arith.addi %{{.+}}, %[[DISTANCE]]
// CHECK-NEXT:        %[[KEPT:.+]] = arith.cmpi sge, %[[Q]], %[[KV]]
// CHECK-NEXT:        %[[ATTENDING:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.any.sync"(%c-1_i32, %[[KEPT]])
// CHECK-NEXT:        %[[LOST:.+]] = arith.cmpi slt, %[[Q]], %[[KV]]
// CHECK-NEXT:        %[[OTHER:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.any.sync"(%c-1_i32, %[[LOST]])
// CHECK-NEXT:        %[[BOTH:.+]] = arith.andi %[[ATTENDING]], %[[OTHER]] : i1
// CHECK-NEXT:        %[[SEEN:.+]]:2 = scf.if %[[BOTH]] -> (i1, i1) {
// CHECK-NEXT:          scf.yield %[[ATTENDING]], %[[OTHER]] : i1, i1
// CHECK-NEXT:        } else {
// Then intervals of a part of the block a lane, where the part has pairs.
// CHECK:               arith.muli %[[ROWPART]],
// CHECK:               arith.muli %[[COLUMNPART]],
// CHECK:               %[[HASQ:.+]] = arith.cmpi slt
// CHECK-NEXT:          %[[HASKV:.+]] = arith.cmpi slt
// CHECK-NEXT:          %[[HASPAIRS:.+]] = arith.andi %[[HASQ]], %[[HASKV]] : i1
// CHECK:               %[[PART:.+]] = arith.select %{{.+}}, %c2_i32, %{{.+}} : i32
// CHECK-NEXT:          %[[IS:.+]] = arith.cmpi eq, %[[PART]], %c1_i32
// CHECK-NEXT:          %[[MIXED:.+]] = arith.andi %[[HASPAIRS]], %[[IS]] : i1
// CHECK-NEXT:          %[[PARTS:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.ballot.sync"(%c-1_i32, %[[MIXED]])
// CHECK-NEXT:          %[[IS:.+]] = arith.cmpi eq, %[[PART]], %c2_i32
// CHECK-NEXT:          %[[FULL:.+]] = arith.andi %[[HASPAIRS]], %[[IS]] : i1
// CHECK-NEXT:          %[[VOTE:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.any.sync"(%c-1_i32, %[[FULL]])
// CHECK-NEXT:          %[[ATTENDING2:.+]] = arith.ori %[[ATTENDING]], %[[VOTE]] : i1
// CHECK-NEXT:          %[[IS:.+]] = arith.cmpi eq, %[[PART]], %c0_i32
// CHECK-NEXT:          %[[SKIPPED:.+]] = arith.andi %[[HASPAIRS]], %[[IS]] : i1
// CHECK-NEXT:          %[[VOTE:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.any.sync"(%c-1_i32, %[[SKIPPED]])
// CHECK-NEXT:          %[[OTHER2:.+]] = arith.ori %[[OTHER]], %[[VOTE]] : i1
// Last the pairs of parts that intervals do not decide, 32 at a time, while those seen are all of one kind.
// CHECK-NEXT:          %[[LOOKED:.+]]:3 = scf.while (%{{.+}} = %[[PARTS]], %{{.+}} = %[[ATTENDING2]], %{{.+}} = %[[OTHER2]])
// CHECK:               ^bb0(%[[LEFTPARTS:.+]]: i32, %[[A:.+]]: i1, %[[O:.+]]: i1):
// CHECK-NEXT:            math.cttz %[[LEFTPARTS]]
// CHECK:                 %[[PAIRS:.+]]:3 = scf.while (%[[I:.+]] = %c0_i32, %[[A2:.+]] = %[[A]], %[[O2:.+]] = %[[O]])
// CHECK-NEXT:              %[[INSIDE:.+]] = arith.cmpi slt, %[[I]],
// CHECK-NEXT:              %[[BOTH:.+]] = arith.andi %[[A2]], %[[O2]] : i1
// CHECK-NEXT:              %[[ONE:.+]] = arith.xori %[[BOTH]], %true : i1
// CHECK-NEXT:              %[[GOESON:.+]] = arith.andi %[[INSIDE]], %[[ONE]] : i1
// CHECK-NEXT:              scf.condition(%[[GOESON]])
// CHECK:                   %[[KEPT:.+]] = arith.cmpi sge, %[[Q:.+]], %[[KV:.+]] : i32
// CHECK-NEXT:              arith.addi %{{.+}}, %c32_i32 : i32
// CHECK-NEXT:              "llvm.nvvm.vote.any.sync"(%c-1_i32, %[[KEPT]])
// CHECK:                   %[[LOST:.+]] = arith.cmpi slt, %[[Q]], %[[KV]] : i32
// CHECK-NEXT:              "llvm.nvvm.vote.any.sync"(%c-1_i32, %[[LOST]])
// CHECK:                 scf.yield %{{.+}}, %[[PAIRS]]#1, %[[PAIRS]]#2 : i32, i1, i1
// CHECK:               scf.yield %[[LOOKED]]#1, %[[LOOKED]]#2 : i1, i1
// The lane of the block keeps its class: skipped where none attends, partial where one does not or it hangs over. Only open
// ones are stored.
// CHECK:             %[[HANGS:.+]] = arith.andi %{{.+}}, %{{.+}} : i1
// CHECK-NEXT:        %[[ISPARTIAL:.+]] = arith.ori %[[SEEN]]#1, %[[HANGS]] : i1
// CHECK-NEXT:        %[[FOUND:.+]] = arith.select %[[ISPARTIAL]], %c1_i32, %c2_i32 : i32
// CHECK-NEXT:        %[[CLASS:.+]] = arith.select %[[SEEN]]#0, %[[FOUND]], %c0_i32 : i32
// CHECK:             %[[REST:.+]] = arith.andi %[[LEFT]], %{{.+}} : i32
// CHECK-NEXT:        %[[ISOWN:.+]] = arith.cmpi eq, %[[LANE]], %[[PLACE]]
// CHECK-NEXT:        %[[NEXT:.+]] = arith.select %[[ISOWN]], %[[CLASS]], %[[OWN]] : i32
// CHECK-NEXT:        scf.yield %[[REST]], %[[NEXT]] : i32, i32
// CHECK:           scf.if %[[ISOPEN]] {
// CHECK-NEXT:        %[[BYTE:.+]] = arith.trunci %[[SETTLED]]#1 : i32 to i8
// CHECK-NEXT:        llvm.store %[[BYTE]], %[[ADDRESS]] {alignment = 1 : i64} : i8, !llvm.ptr<1>
// CHECK:         llvm.return

// Counts of both kinds first, by two votes for 32 columns. One lane stores them at words 23 and 25.
// CHECK-LABEL: llvm.func @causal_list(
// CHECK-SAME:      %[[ARGS:[^:]+]]: !llvm.ptr {llvm.align = 8 : i64, llvm.byval = !llvm.array<34 x i64>, nvvm.grid_constant})
// CHECK-NOT:       heed.gpu_mask_code
// CHECK-SAME:      nvvm.kernel, nvvm.maxntid = array<i32: 128>
// CHECK:         %[[LANE:.+]] = arith.andi %{{.+}}, %c31_i32 : i32
// CHECK:           %[[TOTALS:.+]]:3 = scf.while (%{{.+}} = %c0_i32, %{{.+}} = %c0_i32, %{{.+}} = %c0_i32)
// CHECK:             %[[CLASS:.+]] = llvm.inline_asm {{.*}}ld.global.u8
// CHECK-NEXT:        %[[IS:.+]] = arith.cmpi eq, %[[CLASS]], %c1_i32
// CHECK-NEXT:        %[[VOTE:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.ballot.sync"(%c-1_i32, %[[IS]])
// CHECK-NEXT:        math.ctpop %[[VOTE]]
// CHECK:             %[[IS:.+]] = arith.cmpi eq, %[[CLASS]], %c2_i32
// CHECK-NEXT:        %[[VOTE:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.ballot.sync"(%c-1_i32, %[[IS]])
// CHECK-NEXT:        math.ctpop %[[VOTE]]
// CHECK:           %[[ISFIRST:.+]] = arith.cmpi eq, %[[LANE]], %c0_i32
// CHECK-NEXT:      scf.if %[[ISFIRST]] {
// CHECK:             llvm.getelementptr %[[ARGS]][184]
// CHECK:             llvm.store %[[TOTALS]]#1, %{{.+}} : i32, !llvm.ptr<1>
// CHECK:             llvm.getelementptr %[[ARGS]][200]
// CHECK:             llvm.store %[[TOTALS]]#2, %{{.+}} : i32, !llvm.ptr<1>
// Each column goes to a place in both lists of indices (words 24 and 26): among those of the kind, or behind them all among
// the others.
// CHECK:           scf.while
// CHECK:           ^bb0(%{{.+}}: i32, %[[SUM1:.+]]: i32, %[[SUM2:.+]]: i32):
// CHECK:             %[[COLUMN:.+]] = arith.addi %{{.+}}, %[[LANE]] : i32
// CHECK:             %[[EXISTS:.+]] = arith.cmpi slt, %[[COLUMN]],
// CHECK-NEXT:        %[[CLASS:.+]] = llvm.inline_asm {{.*}}ld.global.u8
// CHECK-NEXT:        %[[IS:.+]] = arith.cmpi eq, %[[CLASS]], %c1_i32
// CHECK-NEXT:        %[[VOTE:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.ballot.sync"(%c-1_i32, %[[IS]])
// CHECK-NEXT:        %[[BELOW:.+]] = llvm.call_intrinsic "llvm.nvvm.read.ptx.sreg.lanemask.lt"()
// CHECK-NEXT:        %[[VOTES:.+]] = arith.andi %[[VOTE]], %[[BELOW]]
// CHECK-NEXT:        %[[NUMBER:.+]] = math.ctpop %[[VOTES]]
// CHECK-NEXT:        %[[BEFORE:.+]] = arith.addi %[[SUM1]], %[[NUMBER]]
// CHECK-NEXT:        %[[OTHERS:.+]] = arith.subi %[[COLUMN]], %[[BEFORE]]
// CHECK-NEXT:        %[[BEHIND:.+]] = arith.addi %[[TOTALS]]#1, %[[OTHERS]]
// CHECK-NEXT:        %[[PLACE:.+]] = arith.select %[[IS]], %[[BEFORE]], %[[BEHIND]]
// CHECK-NEXT:        llvm.getelementptr %[[ARGS]][192]
// CHECK:             scf.if %[[EXISTS]] {
// CHECK-NEXT:          arith.extsi %[[PLACE]]
// CHECK:               llvm.store %[[COLUMN]], %{{.+}} : i32, !llvm.ptr<1>
// CHECK:             %[[IS:.+]] = arith.cmpi eq, %[[CLASS]], %c2_i32
// CHECK-NEXT:        llvm.call_intrinsic "llvm.nvvm.vote.ballot.sync"(%c-1_i32, %[[IS]])
// CHECK:             %[[BEFORE:.+]] = arith.addi %[[SUM2]],
// CHECK:             %[[BEHIND:.+]] = arith.addi %[[TOTALS]]#2,
// CHECK-NEXT:        %[[PLACE:.+]] = arith.select %[[IS]], %[[BEFORE]], %[[BEHIND]]
// CHECK-NEXT:        llvm.getelementptr %[[ARGS]][208]
// CHECK:             scf.if %[[EXISTS]] {
// CHECK-NEXT:          arith.extsi %[[PLACE]]
// CHECK:               llvm.store %[[COLUMN]], %{{.+}} : i32, !llvm.ptr<1>
// CHECK-NOT:         llvm.store
// CHECK:         llvm.return

// A row becomes skipped (0), then entries of the partial list write 1, then those of the full one 2. Lanes wait for each
// other in between.
// CHECK-LABEL: llvm.func @causal_fill(
// CHECK-SAME:      %[[ARGS:[^:]+]]: !llvm.ptr {llvm.align = 8 : i64, llvm.byval = !llvm.array<34 x i64>, nvvm.grid_constant})
// CHECK-NOT:       heed.gpu_mask_code
// CHECK-SAME:      nvvm.kernel, nvvm.maxntid = array<i32: 128>
// CHECK:         llvm.getelementptr %[[ARGS]][144]
// CHECK-NEXT:    %[[WORD:.+]] = llvm.load
// CHECK-NEXT:    %[[COLUMNS:.+]] = arith.trunci %[[WORD]]
// CHECK:         %[[LANE:.+]] = arith.andi %{{.+}}, %c31_i32 : i32
// CHECK:           scf.while (%[[COLUMN:.+]] = %[[LANE]]) : (i32) -> i32
// CHECK-NEXT:        arith.cmpi slt, %[[COLUMN]], %[[COLUMNS]]
// CHECK:             llvm.store %c0_i8, %{{.+}} : i8, !llvm.ptr<1>
// CHECK:           llvm.inline_asm has_side_effects asm_dialect = att "bar.warp.sync 0xffffffff;"
// A count is not read where its address is 0 (words 23 and 25), and not believed beyond the width (words 27 and 28).
// CHECK:           llvm.getelementptr %[[ARGS]][216]
// CHECK-NEXT:      %[[WORD:.+]] = llvm.load
// CHECK-NEXT:      %[[WIDTH:.+]] = arith.trunci %[[WORD]]
// CHECK-NEXT:      llvm.getelementptr %[[ARGS]][184]
// CHECK-NEXT:      %[[COUNTS:.+]] = llvm.load
// CHECK-NEXT:      %[[ISGIVEN:.+]] = arith.cmpi ne, %[[COUNTS]], %c0_i64
// CHECK:           %[[COUNT:.+]] = llvm.inline_asm {{.*}} "{ mov.b32 $0, 0; @$2 ld.global.b32 $0, [$1]; }", "=&r,l,b" %{{.+}}, %[[ISGIVEN]] :
// CHECK-NEXT:      llvm.getelementptr %[[ARGS]][192]
// CHECK:           %[[END:.+]] = arith.minsi %[[COUNT]], %[[WIDTH]]
// CHECK-NEXT:      scf.while (%[[I:.+]] = %[[LANE]]) : (i32) -> i32
// CHECK-NEXT:        arith.cmpi slt, %[[I]], %[[END]]
// An index that is negative or too large has no effect.
// CHECK:             %[[COLUMN:.+]] = llvm.load %{{.+}} : !llvm.ptr<1> -> i32
// CHECK-NEXT:        %[[EXISTS:.+]] = arith.cmpi ult, %[[COLUMN]], %[[COLUMNS]]
// CHECK-NEXT:        scf.if %[[EXISTS]] {
// CHECK:               llvm.store %c1_i8, %{{.+}} : i8, !llvm.ptr<1>
// CHECK:           "bar.warp.sync 0xffffffff;"
// CHECK-NEXT:      llvm.getelementptr %[[ARGS]][224]
// CHECK-NEXT:      %[[WORD:.+]] = llvm.load
// CHECK-NEXT:      %[[WIDTH:.+]] = arith.trunci %[[WORD]]
// CHECK-NEXT:      llvm.getelementptr %[[ARGS]][200]
// CHECK-NEXT:      %[[COUNTS:.+]] = llvm.load
// CHECK-NEXT:      %[[ISGIVEN:.+]] = arith.cmpi ne, %[[COUNTS]], %c0_i64
// CHECK:           %[[COUNT:.+]] = llvm.inline_asm {{.*}} "{ mov.b32 $0, 0; @$2 ld.global.b32 $0, [$1]; }", "=&r,l,b" %{{.+}}, %[[ISGIVEN]] :
// CHECK-NEXT:      llvm.getelementptr %[[ARGS]][208]
// CHECK:           %[[END:.+]] = arith.minsi %[[COUNT]], %[[WIDTH]]
// CHECK-NEXT:      scf.while (%[[I:.+]] = %[[LANE]]) : (i32) -> i32
// CHECK-NEXT:        arith.cmpi slt, %[[I]], %[[END]]
// CHECK:             %[[COLUMN:.+]] = llvm.load %{{.+}} : !llvm.ptr<1> -> i32
// CHECK-NEXT:        %[[EXISTS:.+]] = arith.cmpi ult, %[[COLUMN]], %[[COLUMNS]]
// CHECK-NEXT:        scf.if %[[EXISTS]] {
// CHECK:               llvm.store %c2_i8, %{{.+}} : i8, !llvm.ptr<1>
// CHECK:           "bar.warp.sync 0xffffffff;"
// CHECK:         llvm.return
func.func @causal(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @causal_variant(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

attn.variant @documents_variant(%ids: !ids {attn.name = "ids"}) {
  attn.mask(%b, %h, %q, %kv) {
    %x = attn.load %ids[%b, %q] : !ids
    %y = attn.load %ids[%b, %kv] : !ids
    %keep = arith.cmpi eq, %x, %y : i32
    attn.yield %keep : i1
  }
}

// Five words more for the ids (address, extents, strides), and a list for each batch.
// CHECK-LABEL: llvm.func @documents_classify(
// CHECK-SAME:      %[[ARGS:[^:]+]]: !llvm.ptr {llvm.align = 8 : i64, llvm.byval = !llvm.array<39 x i64>, nvvm.grid_constant})
// CHECK-SAME:      heed.gpu_mask_code = {uses_batch = 1 : i64, uses_head = 0 : i64, warps = 4 : i64}
// CHECK-SAME:      nvvm.kernel, nvvm.maxntid = array<i32: 128>
// The least and the greatest id of a row's queries and of a column's keys are read once, each by one lane, 8 at a time.
// CHECK:           llvm.getelementptr %[[ARGS]][96]
// CHECK-NEXT:      %[[WORD:.+]] = llvm.load
// CHECK-NEXT:      %[[BLOCKQ:.+]] = arith.trunci %[[WORD]]
// CHECK-NEXT:      %[[Q0:.+]] = arith.muli %{{.+}}, %[[BLOCKQ]] : i32
// CHECK:           %[[Q1:.+]] = arith.addi %[[Q0]], %{{.+}} : i32
// CHECK:           llvm.getelementptr %[[ARGS]][104]
// CHECK-NEXT:      %[[WORD:.+]] = llvm.load
// CHECK-NEXT:      %[[BLOCKKV:.+]] = arith.trunci %[[WORD]]
// CHECK-NEXT:      %[[K0:.+]] = arith.muli %{{.+}}, %[[BLOCKKV]] : i32
// CHECK:           %[[K1:.+]] = arith.addi %[[K0]], %{{.+}} : i32
// CHECK:           %[[OFEIGHT:.+]]:2 = scf.for %{{.+}} = %[[Q0]] to %[[QREST:.+]] step %c8_i32 iter_args(
// CHECK-COUNT-8:     "{ mov.b32 $0, 0; @$2 ld.global.nc.b32 $0, [$1]; }"
// CHECK-NOT:         ld.global
// CHECK:           %[[OFQ:.+]]:2 = scf.for %{{.+}} = %[[QREST]] to %[[Q1]] step %c1_i32 iter_args(%{{.+}} = %[[OFEIGHT]]#0, %{{.+}} = %[[OFEIGHT]]#1)
// CHECK:             ld.global.nc.b32
// CHECK:           %[[OFEIGHT:.+]]:2 = scf.for %{{.+}} = %[[K0]] to %[[KREST:.+]] step %c8_i32 iter_args(
// CHECK-COUNT-8:     "{ mov.b32 $0, 0; @$2 ld.global.nc.b32 $0, [$1]; }"
// CHECK-NOT:         ld.global
// CHECK:           %[[OFKV:.+]]:2 = scf.for %{{.+}} = %[[KREST]] to %[[K1]] step %c1_i32 iter_args(%{{.+}} = %[[OFEIGHT]]#0, %{{.+}} = %[[OFEIGHT]]#1)
// CHECK:             ld.global.nc.b32
// CHECK:           %[[LEASTK:.+]] = arith.extsi %[[OFKV]]#0 : i32 to i64
// CHECK-NEXT:      %[[MOSTK:.+]] = arith.extsi %[[OFKV]]#1 : i32 to i64
// The loop over rows reads nothing of the ids. Both ids of a row and its queries are sent, in halves and whole; those of the
// column, which each lane has, are not.
// CHECK:           scf.while
// CHECK-NOT:         scf.for
// CHECK-NOT:         ld.global
// CHECK:           ^bb0(%[[ROW:.+]]: i32):
// CHECK:             "llvm.nvvm.shfl.sync.idx.i32"(%c-1_i32, %{{.+}}, %[[ROW]], %c31_i32)
// CHECK:             %[[LOW:.+]] = llvm.call_intrinsic "llvm.nvvm.shfl.sync.idx.i32"(%c-1_i32, %[[OFQ]]#0, %[[ROW]], %c31_i32)
// CHECK:             %[[LEASTQ:.+]] = arith.ori
// CHECK:             "llvm.nvvm.shfl.sync.idx.i32"(%c-1_i32, %{{.+}}, %[[ROW]], %c31_i32)
// CHECK:             %[[LOW:.+]] = llvm.call_intrinsic "llvm.nvvm.shfl.sync.idx.i32"(%c-1_i32, %[[OFQ]]#1, %[[ROW]], %c31_i32)
// CHECK-NOT:         shfl
// CHECK:             %[[MOSTQ:.+]] = arith.ori
// CHECK-NEXT:        arith.subi %[[LEASTQ]], %[[MOSTK]] : i64
// CHECK-NEXT:        arith.subi %[[MOSTQ]], %[[LEASTK]] : i64
// CHECK-NOT:         ld.global
// CHECK:             "llvm.nvvm.shfl.sync.idx.i32"(%c-1_i32, %[[Q0]], %[[ROW]], %c31_i32)
// CHECK-NEXT:        "llvm.nvvm.shfl.sync.idx.i32"(%c-1_i32, %[[Q1]], %[[ROW]], %c31_i32)
// CHECK-NOT:         shfl
// CHECK-NOT:         ld.global
// CHECK-NOT:         scf.for
// CHECK:             llvm.store %{{.+}} : i8, !llvm.ptr<1>
// CHECK:         llvm.return

// The probe and the pairs of parts read two ids each; the intervals of parts read those of the part.
// CHECK-LABEL: llvm.func @documents_settle(
// CHECK-SAME:      llvm.byval = !llvm.array<39 x i64>
// CHECK-SAME:      nvvm.kernel, nvvm.maxntid = array<i32: 128>
// CHECK:           "llvm.nvvm.vote.ballot.sync"
// CHECK:           scf.while
// CHECK:             %[[X:.+]] = llvm.inline_asm {{.*}}ld.global.nc.b32
// CHECK:             %[[Y:.+]] = llvm.inline_asm {{.*}}ld.global.nc.b32
// CHECK-NEXT:        %[[KEPT:.+]] = arith.cmpi eq, %[[X]], %[[Y]] : i32
// CHECK-NEXT:        "llvm.nvvm.vote.any.sync"(%c-1_i32, %[[KEPT]])
// CHECK:             } else {
// CHECK:               scf.for
// CHECK:               scf.for
// CHECK:               "llvm.nvvm.vote.ballot.sync"
// CHECK:               scf.while
// CHECK:                 scf.while
// CHECK:                   %[[X:.+]] = llvm.inline_asm {{.*}}ld.global.nc.b32
// CHECK:                   %[[Y:.+]] = llvm.inline_asm {{.*}}ld.global.nc.b32
// CHECK-NEXT:              %[[KEPT:.+]] = arith.cmpi eq, %[[X]], %[[Y]] : i32
// CHECK:                   "llvm.nvvm.vote.any.sync"(%c-1_i32, %[[KEPT]])
// CHECK:             llvm.store %{{.+}} : i8, !llvm.ptr<1>

// The mask has no part in lists, but they have the same argument block.
// CHECK-LABEL: llvm.func @documents_list(
// CHECK-SAME:      llvm.byval = !llvm.array<39 x i64>
// CHECK-SAME:      nvvm.kernel, nvvm.maxntid = array<i32: 128>
// CHECK-NOT:     ld.global.nc
// CHECK-LABEL: llvm.func @documents_fill(
// CHECK-SAME:      llvm.byval = !llvm.array<39 x i64>
// CHECK-SAME:      nvvm.kernel, nvvm.maxntid = array<i32: 128>
// CHECK-NOT:     ld.global.nc
// CHECK:         llvm.return
func.func @documents(%q: !t, %k: !k, %v: !k, %scale: f32, %ids: !ids) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @documents_variant(%q, %k, %v) scale(%scale) captures(%ids) : (!t, !k, !k, !ids) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
