//===-- FragmentLowering.cpp - Tile ops on accumulator fragments ----------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FragmentLowering.h"

#include "heed-c/Runtime.h"
#include "heed/Target/NVIDIA/GPUTarget.h"

#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/SCF/Utils/Utils.h"

#include <limits>

using namespace mlir;
using namespace heed;
using namespace heed::nvidia;

/// The reference of a row that has met no key yet: finite, so that no exponent is -inf - -inf, and
/// below all scores.
static constexpr float kLowestReference = -std::numeric_limits<float>::max();
/// From here on (base-2 logarithms) a reference may be off by more than 1, which weights must not
/// be: a row whose maximum is beyond it is large.
static constexpr float kLarge = 16777216.0f; // 2^24
/// The reference of rows from whose scores the largest is taken. As a number it is 0; its bits, of
/// a subnormal number, are those of no other reference, since products flush to 0.
static constexpr int64_t kLargeReference = 0x80000001;
/// The argument that the largest scores of rows are written to, if it is not null.
static constexpr unsigned kMaxScoresArgument = 5;
static constexpr float kLn2 = 0.69314718055994530942f;

/// How far below zero a row's largest score may be (base-2 logarithms) for its reference to be zero
/// nonetheless: scores with a sign cannot be beyond a reference without one, and need not be told
/// apart. Weights are as precise as ever in a type with many exponents, those of f16 still normal.
static float leadOf(Type weights) { return weights.isF16() ? 4.0f : 16.0f; }

FragmentLowering::FragmentLowering(tile::KernelOp kernel, tile::GPUScheduleAttr schedule)
    : kernel(kernel), schedule(schedule), builder(kernel), e(builder, kernel.getLoc()) {}

LLVM::LLVMFuncOp FragmentLowering::createKernel(StringRef name, int64_t numMaps, int64_t numThreads,
                                                int64_t minBlocksPerSM) {
  OpBuilder b(kernel);
  ScalarSource source = ScalarSource::of(kernel);
  function =
      createKernelFunction(b, kernel.getLoc(), name, numMaps, countArgumentWords(source.parameters),
                           numThreads, minBlocksPerSM);
  builder.setInsertionPointToStart(&function.front());
  uniform = std::make_unique<Scalars>(e, source, function.getArgument(numMaps));
  return function;
}

Value FragmentLowering::createSharedMemory(int64_t alignment) {
  auto module = kernel->getParentOfType<ModuleOp>();
  constexpr StringLiteral name = "heed_shared";
  if (!module.lookupSymbol(name)) {
    OpBuilder b(kernel);
    auto type = LLVM::LLVMArrayType::get(b.getI8Type(), 0);
    LLVM::GlobalOp::create(b, e.loc, type, /*isConstant=*/false, LLVM::Linkage::External, name,
                           Attribute(), alignment, kShared);
  }
  Value base = LLVM::AddressOfOp::create(builder, e.loc, e.ptr(kShared), name);
  return LLVM::PtrToIntOp::create(builder, e.loc, e.i32(), base);
}

void FragmentLowering::emitClassifyKernel(int64_t numMaps) {
  std::unique_ptr<Scalars> kept = std::move(uniform);
  LLVM::LLVMFuncOp keptFunction = function;
  createKernel((kernel.getSymName() + "_classify").str(), numMaps, 32 * BlockWalk::kClassifyWarps,
               1);
  Value words;
  {
    OpBuilder b(kernel);
    auto type = LLVM::LLVMArrayType::get(e.i32(), walker->classifyWords());
    auto global =
        LLVM::GlobalOp::create(b, e.loc, type, /*isConstant=*/false, LLVM::Linkage::Internal,
                               (kernel.getSymName() + "_words").str(), Attribute(), 4, kShared);
    b.createBlock(&global.getInitializerRegion());
    LLVM::ReturnOp::create(b, e.loc, LLVM::UndefOp::create(b, e.loc, type).getResult());
    Value pointer = LLVM::AddressOfOp::create(builder, e.loc, global);
    words = LLVM::PtrToIntOp::create(builder, e.loc, e.i32(), pointer);
  }
  BlockWalk(e, *uniform, kernel, loop, groups(), kInstanceRows).emitClassify(words);
  LLVM::ReturnOp::create(builder, e.loc, ValueRange());
  unrollReads(function);
  if (walker->summaryWords() > 0) {
    createKernel((kernel.getSymName() + "_summarise").str(), numMaps, BlockWalk::kSummariseThreads,
                 1);
    BlockWalk(e, *uniform, kernel, loop, groups(), kInstanceRows).emitSummarise();
    LLVM::ReturnOp::create(builder, e.loc, ValueRange());
    unrollReads(function);
  }
  function = keptFunction;
  uniform = std::move(kept);
}

void FragmentLowering::describe(const Launch &launch) {
  auto number = [&](StringRef name, int64_t v) {
    return builder.getNamedAttr(name, builder.getI64IntegerAttr(v));
  };
  function->setAttr(
      "heed.gpu_code",
      builder.getDictionaryAttr(
          {number("block_q", tileRows()), number("block_kv", blockKv()),
           number("num_threads", launch.numThreads), number("shared_bytes", launch.sharedBytes),
           number("blocks_per_sm", schedule.getBlocksPerSm()),
           number("blocks_per_tile", schedule.getValueSlices()),
           number("needs_aligned", launch.needsAligned),
           builder.getNamedAttr("maps", builder.getArrayAttr(launch.maps)),
           number("classify_threads", walker->usesLists() ? 32 * BlockWalk::kClassifyWarps : 0),
           number("lists_per_batch", walker->dependsOnBatch()),
           number("lists_per_head", walker->dependsOnHead()),
           number("summary_words", walker->summaryWords()),
           number("summarise_threads", walker->summaryWords() ? BlockWalk::kSummariseThreads : 0),
           number("summaries_per_batch", walker->summariesDependOnBatch()),
           number("summaries_per_head", walker->summariesDependOnHead())}));
}

int64_t FragmentLowering::strideWord(unsigned argument) {
  return HEED_ARG_QUERY_STRIDES + 3 * argument;
}

Value FragmentLowering::reduceQuad(Value x, llvm::function_ref<Value(Value, Value)> combine) {
  for (int64_t mask : {1, 2})
    x = combine(x, e.shuffleXor(x, mask));
  return x;
}

Registers FragmentLowering::pack(ArrayRef<Value> registers, Type element) {
  Registers pairs;
  for (size_t i = 0; i + 1 < registers.size(); i += 2)
    pairs.push_back(e.packPair(element, registers[i], registers[i + 1]));
  return pairs;
}

//===----------------------------------------------------------------------===//
// Elementwise ops
//===----------------------------------------------------------------------===//

LogicalResult FragmentLowering::lowerFill(tile::FillOp op) {
  tile::TileType type = op.getType();
  // References stay finite: see lowerOnlineSoftmax.
  float number = op.getValue().convertToFloat();
  Value v = e.cstF32(type.getRank() == 1 ? std::max(number, kLowestReference) : number);
  fragments[op] = Registers(countRegisters(type), v);
  return success();
}

void FragmentLowering::emitUsedScalars() {
  SmallVector<Value> used;
  kernel.getBodyBlock()->walk([&](Operation *op) {
    if (!isa<tile::TileDialect>(op->getDialect()) || isa<tile::ForKVOp, tile::YieldOp>(op))
      return;
    for (Value v : op->getOperands())
      if (!isa<tile::TileType, attn::TensorType>(v.getType()) &&
          v.getParentBlock() == kernel.getBodyBlock())
        used.push_back(v);
  });
  uniform->emitSlice(used, scalars);
}

int64_t FragmentLowering::countRegisters(tile::TileType type) {
  if (type.getRank() == 1)
    return 2;
  return llvm::alignTo(sliceColumnsOf(schedule, type.getNumColumns()), 8) / 2;
}

SmallVector<int64_t> FragmentLowering::countCarried(tile::ForKVOp loop) {
  SmallVector<int64_t> counts;
  for (auto [iter, result] :
       llvm::zip(loop.getIterArgs(), loop.getBodyBlock()->getTerminator()->getOperands())) {
    auto type = cast<tile::TileType>(iter.getType());
    auto softmax = result.getDefiningOp<tile::OnlineSoftmaxOp>();
    bool isReference = softmax && softmax.getNewReference() == result;
    counts.push_back(isReference ? 4 : countRegisters(type));
  }
  return counts;
}

void FragmentLowering::hoistStages(tile::ForKVOp loop) {
  stages.clear();
  for (Operation &op : *loop.getBodyBlock()) {
    if (!isa<tile::MapOp, tile::MaskOp>(op) || op.getRegion(0).empty())
      continue;
    auto map = dyn_cast<tile::MapOp>(op);
    auto mask = dyn_cast<tile::MaskOp>(op);
    Block &block = op.getRegion(0).front();
    llvm::DenseMap<Value, FragmentStage::Beside> beside;
    for (auto [tile, argument] :
         llvm::zip(map ? map.getBeside() : mask.getBeside(),
                   map ? map.getBesideArguments() : mask.getBesideArguments())) {
      auto type = cast<tile::TileType>(tile.getType());
      bool isAlongKeys = type.getRank() == 1;
      bool isNarrow = type.getElementType().getIntOrFloatBitWidth() <= 16;
      beside[argument] = {isAlongKeys, !isAlongKeys && isNarrow, readBeside(tile)};
    }
    auto stage = std::make_unique<FragmentStage>(e, *uniform, block, map ? map.getScore() : Value(),
                                                 map ? map.getQuery() : mask.getQuery(),
                                                 map ? map.getKey() : mask.getKey(), beside);
    // Scalars that the region uses from outside.
    SmallVector<Value> used;
    for (Operation &inner : block)
      for (Value operand : inner.getOperands())
        if (operand.getParentBlock() != &block && !isa<attn::TensorType>(operand.getType()))
          used.push_back(operand);
    uniform->emitSlice(used, scalars);
    stage->hoist(scalars, e.add(scalar(op.getOperand(1)), threadRow));
    stages[&op] = std::move(stage);
  }
}

LogicalResult FragmentLowering::lowerMap(tile::MapOp op) {
  FragmentStage &stage = *stages[op];
  stage.beginBlock(e.add(scalar(op.getColumn()), threadColumn));
  stage.readAhead(countRegisters(op.getTile().getType()));
  ready(op.getTile());
  Registers result = registers(op.getTile());
  // Only a softmax, behind a mask or not, knows of addends by rows.
  auto isKnown = [](Operation *user) { return isa<tile::OnlineSoftmaxOp>(user); };
  auto known = llvm::all_of(op->getUsers(), [&](Operation *user) {
    return isKnown(user) || (isa<tile::MaskOp>(user) && llvm::all_of(user->getUsers(), isKnown));
  });
  auto addends = known ? stage.rowAddends(result.size()) : std::nullopt;
  if (addends)
    rowAddends[op] = *addends;
  for (auto [i, element] : llvm::enumerate(result)) {
    Element place = Element::ofRegister(i);
    element = addends ? stage.evaluateBesides(place, element) : stage.evaluate(place, element);
  }
  fragments[op] = result;
  return success();
}

/// Masked elements become -inf, in partial blocks only. A block that reaches beyond the limit
/// counts as partial: producers of block classes see to that.
LogicalResult FragmentLowering::lowerMask(tile::MaskOp op) {
  ready(op.getTile());
  Registers scores = registers(op.getTile());
  SmallVector<Type> types(scores.size(), e.f32());
  Value firstKv = e.add(scalar(op.getColumn()), threadColumn);
  Value limit = scalar(op.getLimit());
  auto select = [&](ArrayRef<Value> from, llvm::function_ref<Value(Element)> keep) {
    Emitter::Values result;
    Value lowest = e.negativeInfinity();
    for (auto [i, score] : llvm::enumerate(from))
      result.push_back(e.select(keep(Element::ofRegister(i)), score, lowest));
    return result;
  };
  FragmentStage *stage = stages[op].get();
  bool isWGMMA = schedule.getDot() == tile::GPUDotKind::WGMMA;
  auto masked = [&]() -> Emitter::Values {
    Value distance = e.sub(limit, firstKv);
    // Comparisons with the limit are shared by the rows of a column, in one region each.
    auto selectBelow = [&](ArrayRef<Value> from, Value condition) {
      SmallVector<Value> below(2 * from.size());
      return select(from, [&](Element element) {
        Value &slot = below[element.column];
        if (!slot)
          slot = e.cmp(arith::CmpIPredicate::sgt, distance, e.cst(element.column));
        return condition ? e.both(slot, stage->evaluate(condition, element, Value())) : slot;
      });
    };
    if (!stage)
      return selectBelow(scores, Value());
    // Only the last block has columns from the limit on: it gets a selection of its own, where that
    // does not cost registers.
    auto keptBy = [&](Value condition) {
      stage->beginBlock(firstKv);
      if (!isWGMMA)
        return selectBelow(scores, condition);
      return select(scores,
                    [&](Element element) { return stage->evaluate(condition, element, Value()); });
    };
    if (isWGMMA)
      stage->keepConditionsWhole();
    Emitter::Values kept;
    if (auto choice = stage->uniformChoice())
      kept = e.ifElse(
          choice->condition, types, [&] { return keptBy(choice->ifTrue); },
          [&] { return keptBy(choice->ifFalse); });
    else
      kept = keptBy(stage->result());
    if (!isWGMMA)
      return kept;
    Value isLast = e.lt(e.sub(limit, scalar(op.getColumn())), e.cst(blockKv()));
    return e.ifElse(
        isLast, types, [&] { return selectBelow(kept, Value()); }, [&] { return kept; });
  };
  fragments[op] = e.ifElse(isPartial, types, masked, [&] { return Emitter::Values(scores); });
  if (auto it = rowAddends.find(op.getTile()); it != rowAddends.end()) {
    auto addends = it->second; // not a reference into the map, which grows
    rowAddends[op] = addends;
  }
  return success();
}

//===----------------------------------------------------------------------===//
// The softmax
//===----------------------------------------------------------------------===//

/// A row's elements in this thread as one, in four chains.
static Value reduceRow(ArrayRef<Value> elements, int64_t row,
                       llvm::function_ref<Value(Value, Value)> combine) {
  Value chains[4];
  int64_t next = 0;
  for (auto [i, x] : llvm::enumerate(elements)) {
    if (int64_t((i >> 1) & 1) != row)
      continue;
    Value &chain = chains[next++ % 4];
    chain = chain ? combine(chain, x) : x;
  }
  Value result = chains[0];
  for (Value chain : ArrayRef(chains).drop_front())
    if (chain)
      result = combine(result, chain);
  return result;
}

static Value emitRowMax(Emitter &e, ArrayRef<Value> elements, int64_t row) {
  return reduceRow(elements, row, [&](Value x, Value y) { return e.fmax(x, y); });
}

static Value emitRowSum(Emitter &e, ArrayRef<Value> elements, int64_t row) {
  return reduceRow(elements, row, [&](Value x, Value y) { return e.fadd(x, y); });
}

/// The element of a row whose bits are the largest integer: the largest element if one of them has
/// no sign. Hopper takes the largest of three integers in one instruction, of two floats only: two
/// chains of pairs are what ptxas makes such instructions of.
static Value emitRowMaxOfBits(Emitter &e, ArrayRef<Value> elements, int64_t row) {
  auto max = [&](Value x, Value y) -> Value { return arith::MaxSIOp::create(e.b, e.loc, x, y); };
  Value chains[2], waiting[2];
  int64_t next = 0;
  for (auto [i, x] : llvm::enumerate(elements)) {
    if (int64_t((i >> 1) & 1) != row)
      continue;
    int64_t chain = (next++ >> 1) & 1;
    Value bits = e.bitcast(e.i32(), x);
    if (!chains[chain]) {
      chains[chain] = bits;
    } else if (!waiting[chain]) {
      waiting[chain] = bits;
    } else {
      chains[chain] = max(max(chains[chain], waiting[chain]), bits);
      waiting[chain] = {};
    }
  }
  Value result = chains[0];
  for (Value rest : {chains[1], waiting[0], waiting[1]})
    if (rest)
      result = max(result, rest);
  return e.bitcast(e.f32(), result);
}

Value FragmentLowering::isLarge(Value product) {
  return e.band(e.fcmp(arith::CmpFPredicate::OGE, e.unary("abs.f32", product), e.cstF32(kLarge)),
                e.fcmp(arith::CmpFPredicate::OGT, product, e.cstF32(kLowestReference)));
}

Value FragmentLowering::wasLarge(Value reference) {
  return e.eq(e.bitcast(e.i32(), reference), kLargeReference);
}

Value FragmentLowering::reduceRowMax(Value x) {
  return reduceQuad(x, [&](Value x, Value y) { return e.fmax(x, y); });
}

bool FragmentLowering::comparesBits(tile::OnlineSoftmaxOp op) {
  // With more value columns products hide it, and registers are scarce. Where the distance enters
  // a score, references are renewed at most blocks, which costs more then.
  return schedule.getDot() == tile::GPUDotKind::WGMMA && schedule.getLazyRescale() > 0 &&
         tensorType(2).getExtents()[3] <= 128 && !rowAddends.count(op.getScores());
}

Value FragmentLowering::wantsMaxScores() {
  return e.cmp(arith::CmpIPredicate::ne, uniform->word(kMaxScoresArgument), e.cst64(0));
}

/// What a block changes of the two rows of a thread, and of its scores.
struct FragmentLowering::Rescaling {
  Registers references, largest, rescale;
  Registers bases; // addends less references, where there are addends
  Registers scores;

  Emitter::Values flatten() const {
    Emitter::Values values(references);
    llvm::append_range(values, largest);
    llvm::append_range(values, rescale);
    llvm::append_range(values, bases);
    llvm::append_range(values, scores);
    return values;
  }
  static Rescaling of(ArrayRef<Value> values, size_t numScores) {
    auto pair = [&](size_t first) { return Registers(values.slice(first, 2)); };
    ArrayRef<Value> rest = values.drop_front(6);
    return {pair(0), pair(2), pair(4), Registers(rest.drop_back(numScores)),
            Registers(rest.take_back(numScores))};
  }
};

/// The same where a row of the warp is large or was. All lanes of a quad have the largest scores of
/// its rows then.
FragmentLowering::Rescaling FragmentLowering::takeMaxima(Rescaling result, ArrayRef<Value> old,
                                                         ArrayRef<Value> addends, Value factor,
                                                         bool isByBits, float lead) {
  Value lowest = e.cstF32(kLowestReference), mark = e.bitcast(e.f32(), e.cst(kLargeReference));
  SmallVector<Value, 2> offsets;
  for (int64_t row : {0, 1}) {
    Value &most = result.largest[row];
    most = reduceRowMax(most);
    if (isByBits && !old.empty()) {
      // Nobody knows the largest score of a row whose reference leads.
      Value isKnown = e.bor(wantsMaxScores(), wasLarge(old[row]));
      Value byReference = e.fmul(old[row], e.reciprocal(factor));
      most = e.fmax(most, e.select(isKnown, lowest, byReference));
    }
    Value offset = e.fmax(most, lowest);
    offsets.push_back(offset);
    result.references[row] = mark;
    if (!old.empty()) {
      Value byScores = e.fmul(e.fsub(e.fmax(old[2 + row], lowest), offset), factor);
      Value byReference = e.fma(e.fneg(offset), factor, old[row]);
      // At most what a reference leads by and was rounded by, but for rows that have no key yet.
      Value exponent = e.select(wasLarge(old[row]), byScores, byReference);
      result.rescale[row] = e.exp2(e.fmin(exponent, e.cstF32(lead + 1.0f)));
    }
    if (!addends.empty())
      result.bases[row] = e.cstF32(0.0f);
  }
  for (auto [i, score] : llvm::enumerate(result.scores)) {
    if (!addends.empty())
      score = e.fadd(score, addends[rowOf(i)]);
    score = e.fsub(score, offsets[rowOf(i)]);
  }
  return result;
}

/// References are held times `factor`, in base-2 logarithms, beside the largest score of the lane's
/// own columns. Rescaling is lazy and speculative (gpu_evidence): weights are computed with the
/// old reference; only where a score of the warp is beyond it by more than the schedule's bound, a
/// rarely taken branch agrees on a new one.
///
/// A warp with a large row takes that branch each time. The references of its rows are 0, and their
/// largest scores are subtracted before the factor.
LogicalResult FragmentLowering::lowerOnlineSoftmax(tile::OnlineSoftmaxOp op) {
  ready(op.getScores());
  Registers scores = registers(op.getScores());
  Value factor = scalar(op.getFactor());
  bool isLazy = !isFirstBlock && schedule.getLazyRescale() > 0, isByBits = comparesBits(op);
  auto maxima = [&] { return Registers{emitRowMax(e, scores, 0), emitRowMax(e, scores, 1)}; };
  Registers rowMax = isLazy && isByBits
                         ? Registers{emitRowMaxOfBits(e, scores, 0), emitRowMaxOfBits(e, scores, 1)}
                         : maxima();
  scoresAreKnown(rowMax);
  // Addends differ between the lanes of a quad: they enter before these agree.
  SmallVector<Value, 2> addends;
  if (auto it = rowAddends.find(op.getScores()); it != rowAddends.end()) {
    addends = {it->second.first, it->second.second};
    for (int64_t row : {0, 1})
      rowMax[row] = e.fadd(rowMax[row], addends[row]);
  }
  Registers old = isFirstBlock ? Registers() : registers(op.getReference());
  Value one = e.cstF32(1.0f), lowest = e.cstF32(kLowestReference), isNeeded;
  float lead = isByBits ? leadOf(op.getWeights().getType().getElementType()) : 0.0f;
  auto rescaling = [&](Registers references, Registers rescale) {
    Rescaling result{references, rowMax, rescale, {}, scores};
    if (!isFirstBlock)
      for (int64_t row : {0, 1})
        result.largest[row] = e.fmax(old[2 + row], rowMax[row]);
    for (auto [addend, reference] : llvm::zip(addends, references))
      result.bases.push_back(e.fma(addend, factor, e.fneg(reference)));
    return result;
  };
  SmallVector<Type> types(6 + addends.size() + scores.size(), e.f32());
  auto renew = [&]() -> Emitter::Values {
    Registers references, rescale;
    Value isSpecial = isFirstBlock ? e.cstBool(false) : wasLarge(old[0]);
    for (int64_t row : {0, 1}) {
      Value product = e.fmul(reduceRowMax(rowMax[row]), factor);
      Value reference = e.fmax(isFirstBlock ? lowest : old[row], product);
      if (isByBits)
        reference = e.select(e.fcmp(arith::CmpFPredicate::OGE, reference, e.cstF32(-lead)),
                             e.fmax(reference, e.cstF32(0.0f)), reference);
      references.push_back(reference);
      rescale.push_back(isFirstBlock ? one : e.exp2(e.fsub(old[row], references[row])));
      isSpecial = e.bor(isSpecial, isLarge(reference));
    }
    auto usual = [&] { return rescaling(references, rescale); };
    return e.ifElse(
        e.voteAny(isSpecial), types,
        [&] { return takeMaxima(usual(), old, addends, factor, isByBits, lead).flatten(); },
        [&] { return usual().flatten(); });
  };
  auto keep = [&] { return rescaling({old[0], old[1]}, {one, one}).flatten(); };
  auto isBeyond = [&] {
    Value bound = e.cstF32(schedule.getLazyRescale()), exceeds = wasLarge(old[0]);
    for (int64_t row : {0, 1}) {
      Value beyond = e.fma(rowMax[row], factor, e.fneg(old[row]));
      exceeds = e.bor(exceeds, e.fcmp(arith::CmpFPredicate::OGT, beyond, bound));
    }
    return exceeds;
  };
  auto renewWhereBeyond = [&] {
    isNeeded = e.voteAny(isBeyond());
    return e.ifElse(isNeeded, types, renew, keep);
  };
  Emitter::Values renewed;
  if (!isLazy) {
    renewed = renew();
  } else if (!isByBits) {
    renewed = renewWhereBeyond();
  } else {
    // Bits do not tell the largest of scores that all have a sign. It matters where the reference
    // has one too, or somebody wants to know it.
    Value signs = e.bor(e.band(e.bitcast(e.i32(), rowMax[0]), e.bitcast(e.i32(), old[0])),
                        e.band(e.bitcast(e.i32(), rowMax[1]), e.bitcast(e.i32(), old[1])));
    Value isOpen = e.bor(e.lt(signs, e.cst(0)), wantsMaxScores());
    SmallVector<Type> typesAndNeed(types);
    typesAndNeed.push_back(e.i1());
    renewed = e.ifElse(
        e.voteAny(e.bor(isBeyond(), isOpen)), typesAndNeed,
        [&] {
          Registers ofBits = rowMax;
          rowMax = maxima();
          Emitter::Values values = renewWhereBeyond();
          rowMax = ofBits;
          values.push_back(isNeeded);
          return values;
        },
        [&] {
          Emitter::Values values = keep();
          values.push_back(e.cstBool(false));
          return values;
        });
    isNeeded = renewed.pop_back_val();
  }
  Rescaling now = Rescaling::of(renewed, scores.size());
  if (addends.empty())
    now.bases = {e.fneg(now.references[0]), e.fneg(now.references[1])};

  Registers weights, sum, statistic = now.references;
  for (auto [i, score] : llvm::enumerate(now.scores))
    weights.push_back(e.exp2(e.fma(score, factor, now.bases[rowOf(i)])));
  for (int64_t row : {0, 1}) {
    Value total = emitRowSum(e, weights, row);
    sum.push_back(isFirstBlock ? total
                               : e.fma(registers(op.getSum())[row], now.rescale[row], total));
  }
  llvm::append_range(statistic, now.largest);
  now.rescale.push_back(isNeeded);
  fragments[op.getWeights()] = weights;
  fragments[op.getNewReference()] = statistic;
  fragments[op.getNewSum()] = sum;
  fragments[op.getRescale()] = now.rescale;
  return success();
}

LogicalResult FragmentLowering::lowerScaleRows(tile::ScaleRowsOp op) {
  ready(op.getTile());
  Registers tile = registers(op.getTile());
  if (isFirstBlock) { // of zeros
    fragments[op] = tile;
    return success();
  }
  ArrayRef<Value> factors = registers(op.getFactors());
  auto scaled = [&] {
    Emitter::Values result;
    for (auto [i, x] : llvm::enumerate(tile))
      result.push_back(e.fmul(x, factors[rowOf(i)]));
    return result;
  };
  if (factors.size() == 3 && factors[2])
    fragments[op] = e.ifElse(factors[2], SmallVector<Type>(tile.size(), e.f32()), scaled,
                             [&] { return Emitter::Values(tile); });
  else
    fragments[op] = scaled();
  return success();
}

LogicalResult FragmentLowering::lowerNormalize(tile::NormalizeOp op) {
  ready(op.getAcc());
  ArrayRef<Value> acc = registers(op.getAcc()), sum = registers(op.getSum()),
                  reference = registers(op.getReference());
  Value factor = scalar(op.getFactor());
  Registers output(acc), inverse, lse, largest;
  for (int64_t row : {0, 1}) {
    Value total = reduceQuad(sum[row], [&](Value x, Value y) { return e.fadd(x, y); });
    // NaN stays NaN: only a sum of 0 means that there was no key.
    Value isEmpty = e.fcmp(arith::CmpFPredicate::OEQ, total, e.cstF32(0.0f));
    inverse.push_back(e.select(isEmpty, e.cstF32(0.0f), e.reciprocal(total)));
    Value product = e.fmul(reduceRowMax(reference[2 + row]), factor);
    Value offset = e.select(wasLarge(reference[row]), product, reference[row]);
    Value logarithm = e.fmul(e.fadd(offset, e.log2(total)), e.cstF32(kLn2));
    lse.push_back(e.select(isEmpty, e.negativeInfinity(), logarithm));
    largest.push_back(e.select(isEmpty, e.negativeInfinity(), e.fmul(product, e.cstF32(kLn2))));
  }
  for (auto [i, x] : llvm::enumerate(output))
    x = e.fmul(x, inverse[rowOf(i)]);
  fragments[op.getOutput()] = output;
  fragments[op.getLse()] = lse;
  fragments[op.getMaxScores()] = largest;
  return success();
}

void FragmentLowering::storeRows(tile::StoreOp op) {
  unsigned index = argumentIndex(op.getTensor());
  Value base = uniform->pointer(index);
  int64_t strides = strideWord(index);
  Value address = uniform->word(index);
  Value isWanted = e.cmp(arith::CmpIPredicate::ne, address, e.cst64(0));
  Value isFirstLane = e.eq(threadColumn, 0);
  Value row = e.add(scalar(op.getRow()), threadRow);
  Value offset = e.add(e.mul(e.toI64(scalar(op.getBatch())), uniform->word(strides)),
                       e.mul(e.toI64(scalar(op.getHead())), uniform->word(strides + 1)));
  ArrayRef<Value> values = registers(op.getTile());
  for (int64_t r : {0, 1}) {
    Value q = e.add(row, 8 * r);
    Value isInside = e.lt(q, uniform->word32(HEED_ARG_SQ));
    e.ifThen(e.band(e.band(isWanted, isFirstLane), isInside), [&] {
      Value element = e.add(offset, e.mul(e.toI64(q), uniform->word(strides + 2)));
      e.store(values[r], e.at(base, e.mul(element, 4)));
    });
  }
}
