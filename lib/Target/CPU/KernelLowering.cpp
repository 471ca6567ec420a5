//===-- KernelLowering.cpp - The structure of a lowered kernel ------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelLowering.h"

#include "heed-c/Runtime.h"

#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace heed;
using namespace heed::cpu;

static constexpr int64_t kScratchAlignment = 64;
static constexpr StringLiteral kZeros = "heed_zeros";
static constexpr int64_t kZeroBytes = 2304; // 576 elements of f32: the largest row

KernelLowering::KernelLowering(tile::KernelOp kernel, const CPUTarget &target,
                               tile::CPUScheduleAttr schedule)
    : ScalarLowering(
          kernel, target, schedule,
          {tensorTypeOf(kernel, 0).getExtents()[3], tensorTypeOf(kernel, 2).getExtents()[3]}),
      kernel(kernel), target(target), schedule(schedule), lanes(schedule.getLanes()),
      groupLanes(lanes * schedule.getVectors()), blockQ(schedule.getBlockQ()),
      blockKv(schedule.getBlockKv()) {}

//===----------------------------------------------------------------------===//
// Functions
//===----------------------------------------------------------------------===//

LogicalResult KernelLowering::run() {
  // Sizes are read once, outside of the stages that use them.
  kernel.walk([&](attn::ExtentOp extent) { extent->moveBefore(&kernel.getBodyBlock()->front()); });
  auto module = kernel->getParentOfType<ModuleOp>();
  if (!module.lookupSymbol(kZeros)) {
    Type type = LLVM::LLVMArrayType::get(builder.getI8Type(), kZeroBytes);
    LLVM::GlobalOp::create(
        builder, kernel.getLoc(), type, /*isConstant=*/true, LLVM::Linkage::Internal, kZeros,
        builder.getZeroAttr(RankedTensorType::get({kZeroBytes}, builder.getI8Type())),
        kScratchAlignment);
  }
  return failure(failed(emitTileFunction()) || failed(emitCostFunction()));
}

func::FuncOp KernelLowering::createFunction(StringRef suffix, ArrayRef<Type> arguments,
                                            Type result) {
  OpBuilder b(kernel);
  auto function =
      func::FuncOp::create(b, kernel.getLoc(), (kernel.getSymName() + suffix).str(),
                           b.getFunctionType(arguments, result ? TypeRange(result) : TypeRange()));
  entry = function.addEntryBlock();
  builder.setInsertionPointToStart(entry);
  scalars.clear();
  tiles.clear();
  captured.clear();
  stages.clear();
  minusReferences.clear();
  products.clear();
  waitingWeights.clear();
  return function;
}

void KernelLowering::bindArguments(Value argBlock, Value batch, Value head, Value queryTile) {
  args = argBlock;
  auto index = [&](Value v) -> Value {
    return arith::IndexCastOp::create(builder, kernel.getLoc(), builder.getIndexType(), v);
  };
  scalars.map(kernel.getBatch(), index(batch));
  scalars.map(kernel.getHead(), index(head));
  scalars.map(kernel.getQueryTile(), index(queryTile));
  auto arguments = kernel.getKernelArguments();
  scalars.map(arguments[6], scalarArgument(arguments[6].getType(), HEED_ARG_SCALE));
  bindCaptures(arguments.drop_front(kFirstParameter));
}

LogicalResult KernelLowering::emitTileFunction() {
  Type i64 = builder.getI64Type(), ptr = LLVM::LLVMPointerType::get(builder.getContext());
  func::FuncOp function = createFunction("_tile", {ptr, i64, i64, i64, ptr}, Type());
  scratch = entry->getArgument(4);
  scratchBytes = 0;
  bindArguments(entry->getArgument(0), entry->getArgument(1), entry->getArgument(2),
                entry->getArgument(3));
  groupRowCounts = Value();
  queryEnd = e->cst(blockQ);
  if (blockQ > groupLanes) {
    // The last tile of a sequence, and the only one of a short one, computes no group in vain.
    Value first = e->mul(entry->getArgument(3), blockQ);
    Value count = validRows(first, blockQ, argWord(HEED_ARG_SQ));
    queryEnd = e->mul(e->div(e->add(count, groupLanes - 1), groupLanes), groupLanes);
  }
  if (failed(lowerBlock(*kernel.getBodyBlock())))
    return failure();
  func::ReturnOp::create(builder, kernel.getLoc());

  auto number = [&](int64_t v) { return builder.getI64IntegerAttr(v); };
  function->setAttr("heed.code",
                    builder.getDictionaryAttr({
                        builder.getNamedAttr("block_q", number(blockQ)),
                        builder.getNamedAttr("block_kv", number(blockKv)),
                        builder.getNamedAttr("scratch_bytes", number(scratchBytes)),
                        builder.getNamedAttr("packed_bytes_per_block", number(packedBytes)),
                        builder.getNamedAttr("uses_lists", number(usesLists)),
                    }));
  return success();
}

/// The number of blocks that the loop walks at most.
LogicalResult KernelLowering::emitCostFunction() {
  Type i64 = builder.getI64Type(), ptr = LLVM::LLVMPointerType::get(builder.getContext());
  createFunction("_cost", {ptr, i64, i64, i64}, i64);
  bindArguments(entry->getArgument(0), entry->getArgument(1), entry->getArgument(2),
                entry->getArgument(3));
  Value cost = e->cst(0);
  for (Operation &op : kernel.getBodyBlock()->without_terminator()) {
    auto loop = dyn_cast<tile::ForKVOp>(op);
    if (loop && loop.walksLists()) {
      RunsOfTile runs = runsOfTile();
      cost = e->loop(runs.first, runs.end, 1, ValueRange(cost),
                     [&](Value number, ValueRange carried) -> SmallVector<Value> {
                       Run run = loadRun(runs.base, number);
                       return {e->add(carried[0], e->sub(run.end, run.begin))};
                     })[0];
    } else if (loop) {
      Value keys = e->sub(scalarI64(loop.getUpper()), scalarI64(loop.getLower()));
      Value positive = arith::MaxSIOp::create(builder, kernel.getLoc(), keys, e->cst(0));
      cost = e->add(cost, e->div(e->add(positive, loop.getStep() - 1), loop.getStep()));
    } else if (!isa<tile::TileDialect>(op.getDialect())) {
      cloneScalar(op, scalars);
    }
  }
  func::ReturnOp::create(builder, kernel.getLoc(), cost);
  return success();
}

void KernelLowering::emitPrepareFunction(tile::LoadOp valueLoad) {
  // Emitted once, while the tile function is under construction: keep that function's state.
  OpBuilder::InsertionGuard guard(builder);
  Block *outerEntry = entry;
  Value outerArgs = args;
  Type i64 = builder.getI64Type(), ptr = LLVM::LLVMPointerType::get(builder.getContext());
  OpBuilder b(kernel);
  auto function = func::FuncOp::create(b, kernel.getLoc(), (kernel.getSymName() + "_prepare").str(),
                                       b.getFunctionType({ptr, i64, i64}, TypeRange()));
  entry = function.addEntryBlock();
  builder.setInsertionPointToStart(entry);
  args = entry->getArgument(0);
  Value batch = entry->getArgument(1), head = entry->getArgument(2);

  Value skv = argWord(HEED_ARG_SKV);
  Value numBlocks = e->div(e->add(skv, blockKv - 1), blockKv);
  Value base = tensorBase(valueLoad.getTensor(), batch, head);
  Value stride = rowStride(valueLoad.getTensor());
  Value first = e->mul(e->add(e->mul(batch, argWord(HEED_ARG_HKV)), head), numBlocks);
  Value packed = argPointer(HEED_ARG_PACKED);
  e->loop(e->cst(0), numBlocks, 1, [&](Value block) {
    Value row = e->mul(block, blockKv);
    Value rows = e->at(base, e->mul(row, stride), valueElement());
    Value out = e->at(packed, e->mul(e->add(first, block), packedBytes), builder.getI8Type());
    Value count = validRows(row, blockKv, skv);
    if (schedule.getDot() == tile::DotKind::AMX)
      emitPackAMX(rows, stride, count, out);
    else
      emitPackPairs(rows, stride, count, out);
  });
  func::ReturnOp::create(builder, kernel.getLoc());
  entry = outerEntry;
  args = outerArgs;
}

//===----------------------------------------------------------------------===//
// Ops and loops
//===----------------------------------------------------------------------===//

LogicalResult KernelLowering::lowerBlock(Block &block) {
  for (Operation &op : block.without_terminator())
    if (failed(lowerOp(op)))
      return failure();
  return success();
}

LogicalResult KernelLowering::lowerOp(Operation &op) {
  if (!isa<tile::TileDialect>(op.getDialect())) {
    cloneScalar(op, scalars);
    return success();
  }
  return llvm::TypeSwitch<Operation *, LogicalResult>(&op)
      .Case([&](tile::LoadOp load) { return lowerLoad(load); })
      .Case([&](tile::ScaleOp scale) -> LogicalResult {
        auto load = scale.getTile().getDefiningOp<tile::LoadOp>();
        if (!load || !load->hasOneUse())
          return scale.emitError("expects to scale a tile.load that has no other use");
        packQueries(load, scale);
        tiles[scale.getResult()] = storage(load.getResult());
        return success();
      })
      .Case([&](tile::FillOp fill) { return lowerFill(fill), success(); })
      .Case([&](tile::ForKVOp loop) { return lowerForKV(loop); })
      .Case([&](tile::DotOp dot) { return lowerDot(dot); })
      // Maps and masks were applied by the product whose scores they change.
      .Case<tile::MapOp, tile::MaskOp>([&](auto stage) -> LogicalResult {
        if (!tiles.count(stage.getResult()))
          return stage.emitError(
              "expects to change the result of a tile.dot that has no other use");
        return success();
      })
      .Case([&](tile::OnlineSoftmaxOp softmax) { return lowerOnlineSoftmax(softmax); })
      .Case([&](tile::ScaleRowsOp scale) { return lowerScaleRows(scale), success(); })
      .Case([&](tile::NormalizeOp normalize) { return lowerNormalize(normalize), success(); })
      .Case([&](tile::StoreOp store) { return lowerStore(store); })
      .Default([](Operation *other) -> LogicalResult {
        return other->emitError("has no lowering for CPUs");
      });
}

LogicalResult KernelLowering::lowerForKV(tile::ForKVOp op) {
  // Loop-carried tiles are updated in place: a result is where its initial value was.
  for (auto [init, iter, result, yielded] :
       llvm::zip(op.getInits(), op.getIterArgs(), op.getResults(),
                 op.getBodyBlock()->getTerminator()->getOperands())) {
    if (!init.hasOneUse())
      return op.emitError("expects initial tiles that have no other use");
    tiles[iter] = storage(init);
    tiles[result] = storage(init);
  }
  // What stages compute from queries alone is the same for all blocks.
  StageVectorizer *mask = nullptr;
  for (Operation &inner : *op.getBodyBlock()) {
    if (!isa<tile::MapOp, tile::MaskOp>(inner) || inner.getRegion(0).empty())
      continue;
    Block &block = inner.getRegion(0).front();
    bool isMap = isa<tile::MapOp>(inner);
    auto stage = std::make_unique<StageVectorizer>(
        *this, block, isMap ? block.getArgument(0) : Value(), block.getArgument(isMap ? 1 : 0),
        block.getArgument(isMap ? 2 : 1), scalars);
    stage->hoist(scalarI64(inner.getOperand(1)), queryEnd,
                 [&](int64_t bytes) { return allocate(blockQ * bytes); });
    if (!isMap)
      mask = stage.get();
    stages[&inner] = std::move(stage);
  }
  // AMX products take all queries of some keys at a time, and have no use for it.
  if (mask && blockQ > groupLanes && schedule.getDot() != tile::DotKind::AMX)
    groupRowCounts = allocate(blockQ / groupLanes * 16);
  for (auto softmax : op.getBodyBlock()->getOps<tile::OnlineSoftmaxOp>())
    beginOnlineSoftmax(softmax);
  blockLoads = llvm::to_vector(op.getBodyBlock()->getOps<tile::LoadOp>());
  if (static_cast<int64_t>(op.getStep()) != blockKv)
    return op.emitError("expects the step to be the schedule's block_kv = ") << blockKv;

  LogicalResult result = success();
  auto lowerBody = [&](Value isPartial) {
    scalars.map(op.getIsPartial(), isPartial);
    if (groupRowCounts)
      emitGroupRows(*mask, isPartial);
    // Loads first: products prefetch the next block of each.
    for (tile::LoadOp load : blockLoads)
      if (succeeded(result))
        result = lowerLoad(load);
    for (Operation &inner : op.getBodyBlock()->without_terminator())
      if (succeeded(result) && !isa<tile::LoadOp>(inner))
        result = lowerOp(inner);
  };
  usesLists |= op.walksLists();
  if (op.walksLists())
    walkLists(op, lowerBody);
  else
    walkBounds(op, lowerBody);
  if (failed(result))
    return failure();
  for (auto [iter, yielded] :
       llvm::zip(op.getIterArgs(), op.getBodyBlock()->getTerminator()->getOperands()))
    if (storage(iter).base != storage(yielded).base)
      return op.emitError("expects loop-carried tiles that are updated in place");
  return success();
}

void KernelLowering::beginBlock(tile::ForKVOp op, Value kv, Value end) {
  blockStart = kv;
  blockRows = e->min(e->cst(op.getStep()), e->sub(end, kv));
  scalars.map(op.getBlockStart(), toIndex(kv));
}

void KernelLowering::walkBounds(tile::ForKVOp op, llvm::function_ref<void(Value)> lowerBody) {
  Value upper = scalarI64(op.getUpper());
  e->loop(scalarI64(op.getLower()), upper, op.getStep(), [&](Value kv) {
    beginBlock(op, kv, upper);
    if (op.getClassify().empty())
      return lowerBody(e->cstBool(false));
    Block &classify = op.getClassify().front();
    scalars.map(classify.getArgument(0), toIndex(kv));
    scalars.map(classify.getArgument(1), toIndex(e->add(kv, blockRows)));
    for (Operation &inner : classify.without_terminator())
      cloneScalar(inner, scalars);
    Value cls = scalar(classify.getTerminator()->getOperand(0));
    auto is = [&](tile::BlockClass c) { return e->eq(cls, e->cstI32(static_cast<int64_t>(c))); };
    Value isPartial = is(tile::BlockClass::Partial);
    Value isNeeded =
        arith::OrIOp::create(builder, op.getLoc(), isPartial, is(tile::BlockClass::Full));
    e->ifThen(isNeeded, [&] { lowerBody(isPartial); });
  });
}

// The layout of heed_block_runs: see heed-c/Runtime.h.
KernelLowering::RunsOfTile KernelLowering::runsOfTile() {
  Value lists = argPointer(HEED_ARG_LISTS);
  auto word = [&](int64_t number, Type type) {
    return e->load(type, e->at(lists, e->cst(number), e->i64()), 8);
  };
  auto own = [&](Value count, Value coordinate) {
    return e->select(e->eq(count, e->cst(1)), e->cst(0), coordinate);
  };
  Value numBatches = word(0, e->i64()), numHeads = word(1, e->i64()), numRows = word(2, e->i64());
  Value list = e->add(e->mul(own(numBatches, scalarI64(kernel.getBatch())), numHeads),
                      own(numHeads, scalarI64(kernel.getHead())));
  Value row = e->add(e->mul(list, numRows), scalarI64(kernel.getQueryTile()));
  Value offset = e->at(word(4, e->ptr()), row, e->i64());
  Value first = e->load(e->i64(), offset);
  Value end = e->load(e->i64(), e->at(offset, e->cst(1), e->i64()));
  return {first, end, word(5, e->ptr())};
}

KernelLowering::Run KernelLowering::loadRun(Value runs, Value number) {
  Value run = e->at(runs, e->mul(number, 3), e->i32());
  auto part = [&](int64_t i) { return e->load(e->i32(), e->at(run, e->cst(i), e->i32())); };
  return {e->toI64(part(0)), e->toI64(part(1)), part(2)};
}

void KernelLowering::walkLists(tile::ForKVOp op, llvm::function_ref<void(Value)> lowerBody) {
  Value skv = argWord(HEED_ARG_SKV);
  RunsOfTile runs = runsOfTile();
  e->loop(runs.first, runs.end, 1, [&](Value number) {
    Run run = loadRun(runs.base, number);
    Value isPartial = e->eq(run.kind, e->cstI32(static_cast<int64_t>(tile::BlockClass::Partial)));
    e->loop(e->mul(run.begin, op.getStep()), e->min(e->mul(run.end, op.getStep()), skv),
            op.getStep(), [&](Value kv) {
              beginBlock(op, kv, skv);
              lowerBody(isPartial);
            });
  });
}

void KernelLowering::emitGroupRows(StageVectorizer &mask, Value isPartial) {
  forEachGroup([&](Value group) {
    // From the end: a tile's bounds are those of all its queries, so that at a diagonal its first
    // groups need nothing of the last keys. Most searches end at the first key they look at.
    auto search = [&](int64_t numLanes, Value from) {
      auto loop = scf::WhileOp::create(
          builder, e->loc, TypeRange(e->i64()), ValueRange(from),
          [&](OpBuilder &, Location, ValueRange carried) {
            Value row = e->sub(carried[0], e->cst(1));
            StageVectorizer::Row values = mask.beginRow(e->toI32(e->add(blockStart, row)));
            Value kept;
            for (int64_t lane = 0; lane < numLanes; lane += lanes) {
              Value v = mask.evaluate(values, e->add(group, lane), Value());
              kept = kept ? arith::OrIOp::create(builder, e->loc, kept, v).getResult() : v;
            }
            Value isNeeded =
                arith::OrIOp::create(builder, e->loc, e->anyLane(kept), e->lt(row, e->cst(0)));
            scf::ConditionOp::create(builder, e->loc, e->eq(isNeeded, e->cstBool(false)), carried);
          },
          [&](OpBuilder &, Location, ValueRange carried) {
            scf::YieldOp::create(builder, e->loc, ValueRange(e->sub(carried[0], e->cst(1))));
          });
      return loop.getResult(0);
    };
    Value rows = e->ifElse(
        isPartial, e->i64(), [&] { return search(groupLanes, blockRows); },
        [&] { return blockRows; });
    e->store(rows, rowCountAddress(group, 0));
    if (!hasHalves())
      return;
    // What the second half alone needs begins where products begin: with a whole step.
    int64_t step = productStep();
    Value ofFirstHalf = e->ifElse(
        isPartial, e->i64(),
        [&] {
          Value count = search(groupLanes / 2, rows);
          return e->min(e->mul(e->div(e->add(count, step - 1), step), step), rows);
        },
        [&] { return rows; });
    e->store(ofFirstHalf, rowCountAddress(group, 1));
  });
}

//===----------------------------------------------------------------------===//
// Addresses
//===----------------------------------------------------------------------===//

Value KernelLowering::allocate(int64_t bytes) {
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToStart(entry);
  Value address = e->at(scratch, e->cst(scratchBytes), builder.getI8Type());
  scratchBytes += llvm::alignTo(bytes, kScratchAlignment);
  return address;
}

unsigned KernelLowering::argumentIndex(Value tensor) {
  return cast<BlockArgument>(tensor).getArgNumber();
}

/// The first word of the strides of query, key, value, output and lse.
static int64_t strideWord(unsigned argument) { return HEED_ARG_QUERY_STRIDES + 3 * argument; }

Value KernelLowering::tensorBase(Value tensor, Value batch, Value head) {
  unsigned index = argumentIndex(tensor);
  Value offset = e->add(e->mul(batch, argWord(strideWord(index))),
                        e->mul(head, argWord(strideWord(index) + 1)));
  Type element = cast<attn::TensorType>(tensor.getType()).getElementType();
  return e->at(argPointer(index), offset, element);
}

Value KernelLowering::rowStride(Value tensor) {
  return argWord(strideWord(argumentIndex(tensor)) + 2);
}

Value KernelLowering::validRows(Value first, int64_t block, Value limit) {
  return e->min(e->cst(block), e->sub(limit, first));
}

Value KernelLowering::zeros() {
  return LLVM::AddressOfOp::create(builder, kernel.getLoc(), e->ptr(), kZeros);
}
