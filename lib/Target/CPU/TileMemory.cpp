//===-- TileMemory.cpp - Reading, packing and writing tiles ---------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelLowering.h"

#include "heed-c/Runtime.h"

#include "mlir/IR/Matchers.h"

#include <limits>

using namespace mlir;
using namespace heed;
using namespace heed::cpu;

//===----------------------------------------------------------------------===//
// tile.load
//===----------------------------------------------------------------------===//

namespace {
enum class OperandRole { Queries, Keys, Values, Unknown };
} // namespace

/// What a loaded tile is for: where products use it.
static OperandRole roleOf(Value tile) {
  if (!tile.hasOneUse())
    return OperandRole::Unknown;
  OpOperand &use = *tile.use_begin();
  if (auto scale = dyn_cast<tile::ScaleOp>(use.getOwner()))
    return roleOf(scale.getResult());
  auto dot = dyn_cast<tile::DotOp>(use.getOwner());
  if (!dot)
    return OperandRole::Unknown;
  if (use.getOperandNumber() == 0)
    return OperandRole::Queries;
  if (use.getOperandNumber() != 1)
    return OperandRole::Unknown;
  return dot.getTransposeRhs() ? OperandRole::Keys : OperandRole::Values;
}

LogicalResult KernelLowering::lowerLoad(tile::LoadOp op) {
  OperandRole role = roleOf(op.getResult());
  if (role == OperandRole::Unknown)
    return op.emitError("expects a tile that one tile.dot reads");
  if (role == OperandRole::Queries) {
    if (op.getResult().getType().getNumRows() != blockQ)
      return op.emitError("expects tiles of the schedule's block_q = ") << blockQ << " queries";
    // Where the only user scales the tile, that happens while it is packed.
    if (!isa<tile::ScaleOp>(*op->user_begin()))
      packQueries(op, tile::ScaleOp());
    return success();
  }

  tile::TileType type = op.getResult().getType();
  int64_t columns = type.getNumColumns();
  Type element = type.getElementType();
  TileStorage s;
  s.kind = TileStorage::KvRows;
  s.count = blockRows;
  s.element = element;
  s.stride = rowStride(op.getTensor());
  Value row = scalarI64(op.getRow());
  Value batch = scalarI64(op.getBatch()), head = scalarI64(op.getHead());
  bool isPairs = schedule.getDot() != tile::DotKind::FMA;

  if (isPairs && role == OperandRole::Values) {
    if (!packedBytes) {
      packedBytes = columns * blockKv * 2;
      emitPrepareFunction(op);
    }
    Value numBlocks = e->div(e->add(argWord(HEED_ARG_SKV), blockKv - 1), blockKv);
    Value block = e->add(e->mul(e->add(e->mul(batch, argWord(HEED_ARG_HKV)), head), numBlocks),
                         e->div(row, blockKv));
    s.kind = TileStorage::KvPacked;
    s.base = e->at(argPointer(HEED_ARG_PACKED), e->mul(block, packedBytes), builder.getI8Type());
    tiles[op.getResult()] = s;
    return success();
  }

  Value rows = e->at(tensorBase(op.getTensor(), batch, head), e->mul(row, s.stride), element);
  s.base = rows;
  if (!isPairs && !element.isF32()) {
    // Widened once a block: a broadcast of 16-bit elements would convert each of them for every
    // group of queries.
    Value widened = allocate(blockKv * columns * 4);
    int64_t main = columns / lanes * lanes;
    e->loop(e->cst(0), blockRows, 1, [&](Value i) {
      Value from = e->at(rows, e->mul(i, s.stride), element);
      Value to = e->at(widened, e->mul(i, columns), e->f32());
      e->loop(e->cst(0), e->cst(main), lanes, [&](Value d) {
        e->store(e->loadWidened(element, e->at(from, d, element)), e->at(to, d, e->f32()));
      });
      e->loop(e->cst(main), e->cst(columns), 1, [&](Value d) {
        e->store(e->loadScalarWidened(element, e->at(from, d, element)), e->at(to, d, e->f32()));
      });
    });
    s.base = widened;
    s.stride = e->cst(columns);
    s.element = e->f32();
  } else if (schedule.getDot() == tile::DotKind::AMX) {
    // Tile loads read 32 keys at a time; near the end of the tensor they read a padded copy.
    Value padded = allocate(blockKv * columns * 2);
    Value needed = e->mul(e->div(e->add(blockRows, 31), 32), 32);
    Value fits = e->lt(e->add(row, needed), e->add(argWord(HEED_ARG_SKV), 1));
    Value stride = s.stride;
    e->ifThen(e->eq(fits, e->cstBool(false)), [&] {
      e->loop(e->cst(0), needed, 1, [&](Value i) {
        Value from =
            e->select(e->lt(i, blockRows), e->at(rows, e->mul(i, stride), element), zeros());
        Value to = e->at(padded, e->mul(i, columns), element);
        e->loop(e->cst(0), e->cst(columns), 32, [&](Value d) {
          Type sixteenPairs = e->vecI32();
          e->store(e->load(sixteenPairs, e->at(from, d, element), 2), e->at(to, d, element), 2);
        });
      });
    });
    s.base = e->select(fits, rows, padded);
    s.stride = e->select(fits, stride, e->cst(columns));
  }
  tiles[op.getResult()] = s;
  return success();
}

/// Asks for a vector of each of the rows that are to be transposed next: so many rows of one vector
/// each are a pattern that no hardware prefetcher knows.
void KernelLowering::prefetchRows(Value base, Value stride, Value row, Value element, Type type) {
  for (int64_t i = 0; i < lanes; ++i)
    e->prefetch(e->at(base, e->add(e->mul(e->add(row, i), stride), element), type));
}

/// Whether a number is 1 or -1.
static bool isSign(Value v) {
  auto sign = v.getDefiningOp<math::CopySignOp>();
  return sign && matchPattern(sign.getLhs(), m_OneFloat());
}

/// Transposes the tile's queries, times the factor of `scale` if there is one, into a panel; rows
/// beyond Sq are zero.
void KernelLowering::packQueries(tile::LoadOp op, tile::ScaleOp scale) {
  tile::TileType type = op.getResult().getType();
  Type element = type.getElementType();
  bool isPairs = schedule.getDot() != tile::DotKind::FMA;
  int64_t steps = isPairs ? type.getNumColumns() / 2 : type.getNumColumns();
  int64_t elementsPerStep = isPairs ? 2 : 1;
  TileStorage panel;
  panel.kind = TileStorage::Panel;
  panel.base = allocate(steps * blockQ * 4);
  panel.rows = steps;
  panel.isPairs = isPairs;
  Value first = scalarI64(op.getRow());
  Value count = validRows(first, blockQ, argWord(HEED_ARG_SQ));
  Value stride = rowStride(op.getTensor());
  Value base = e->at(tensorBase(op.getTensor(), scalarI64(op.getBatch()), scalarI64(op.getHead())),
                     e->mul(first, stride), element);

  Value factor = scale ? scalar(scale.getFactor()) : Value();
  // A factor of 1 or -1, as the sign of a scale is, changes signs of pairs, which are only ever
  // scaled as vectors.
  Value flips;
  if (factor && isPairs && isSign(scale.getFactor())) {
    Value sign = arith::AndIOp::create(builder, e->loc,
                                       arith::BitcastOp::create(builder, e->loc, e->i32(), factor),
                                       e->cstI32(std::numeric_limits<int32_t>::min()));
    Value low = arith::ShRUIOp::create(builder, e->loc, sign, e->cstI32(16));
    flips = e->broadcast(arith::OrIOp::create(builder, e->loc, sign, low));
  }
  auto scaled = [&](Value v) -> Value {
    if (!factor)
      return v;
    if (flips)
      return arith::XOrIOp::create(builder, e->loc, v, flips);
    bool isVector = isa<VectorType>(v.getType());
    Value f = isVector ? e->broadcast(factor) : factor;
    if (!isPairs)
      return e->fmul(v, f);
    auto asFloat = [&](Value bits) -> Value {
      return arith::BitcastOp::create(builder, e->loc, e->vecF32(), bits);
    };
    Value low = asFloat(arith::ShLIOp::create(builder, e->loc, v, e->splatI32(16)));
    Value high = asFloat(arith::AndIOp::create(builder, e->loc, v, e->splatI32(-65536)));
    return e->packPairs(e->fmul(low, f), e->fmul(high, f));
  };

  Type stepType = isPairs ? e->i32() : e->f32();
  int64_t main = steps / lanes * lanes;
  e->loop(e->cst(0), e->cst(main), lanes, [&](Value step) {
    prefetchRows(base, stride, e->cst(0), e->mul(step, elementsPerStep), element);
  });
  e->loop(e->cst(0), queryEnd, lanes, [&](Value lane) {
    SmallVector<Value> rows;
    for (int64_t i = 0; i < lanes; ++i) {
      Value row = e->add(lane, i);
      rows.push_back(
          e->select(e->lt(row, count), e->at(base, e->mul(row, stride), element), zeros()));
    }
    auto address = [&](Value row, Value step) {
      return e->at(row, e->mul(step, elementsPerStep), element);
    };
    e->loop(e->cst(0), e->cst(main), lanes, [&](Value step) {
      prefetchRows(base, stride, e->add(lane, lanes), e->mul(step, elementsPerStep), element);
      SmallVector<Value> vectors;
      for (Value row : rows)
        vectors.push_back(scaled(isPairs ? e->load(e->vecI32(), address(row, step), 2)
                                         : e->loadWidened(element, address(row, step))));
      e->transpose(vectors);
      for (auto [k, v] : llvm::enumerate(vectors))
        e->store(v, e->at(panel.base, laneOffset(panel, e->add(step, k), lane), stepType));
    });
    // Dims that do not fill a vector: gathered element by element into the lanes of one.
    e->loop(e->cst(main), e->cst(steps), 1, [&](Value step) {
      Value v = arith::ConstantOp::create(builder, e->loc, builder.getZeroAttr(e->vec(stepType)));
      for (auto [i, row] : llvm::enumerate(rows)) {
        Value x = isPairs ? e->load(e->i32(), address(row, step), 2)
                          : e->loadScalarWidened(element, address(row, step));
        v = vector::InsertOp::create(builder, e->loc, x, v, i);
      }
      e->store(scaled(v), e->at(panel.base, laneOffset(panel, step, lane), stepType));
    });
  });

  tiles[op.getResult()] = panel;
}

//===----------------------------------------------------------------------===//
// Packed values
//===----------------------------------------------------------------------===//

/// Rows 2k and 2k + 1 of a block as pairs: out[k][d], 32 bits each. Rows beyond `count` are zero.
void KernelLowering::emitPackPairs(Value rows, Value stride, Value count, Value out) {
  Type element = valueElement();
  int64_t columns = kernelTensorType(2).getExtents()[3];
  int64_t main = columns / lanes * lanes;
  e->loop(e->cst(0), e->cst(blockKv / 2), 1, [&](Value pair) {
    auto rowAt = [&](int64_t offset) {
      Value row = e->add(e->mul(pair, 2), offset);
      return e->select(e->lt(row, count), e->at(rows, e->mul(row, stride), element), zeros());
    };
    Value low = rowAt(0), high = rowAt(1);
    Value to = e->at(out, e->mul(pair, columns), e->i32());
    auto pack = [&](Type half, Type full, Value d, Value sixteen) {
      Value l =
          arith::ExtUIOp::create(builder, e->loc, full, e->load(half, e->at(low, d, element)));
      Value h =
          arith::ExtUIOp::create(builder, e->loc, full, e->load(half, e->at(high, d, element)));
      h = arith::ShLIOp::create(builder, e->loc, h, sixteen);
      e->store(arith::OrIOp::create(builder, e->loc, l, h), e->at(to, d, e->i32()));
    };
    e->loop(e->cst(0), e->cst(main), lanes,
            [&](Value d) { pack(e->vec(builder.getI16Type()), e->vecI32(), d, e->splatI32(16)); });
    e->loop(e->cst(main), e->cst(columns), 1,
            [&](Value d) { pack(builder.getI16Type(), e->i32(), d, e->cstI32(16)); });
  });
}

/// The transpose of a block in chunks of 32 keys: out[chunk][d][32], so that 16 dims x 32 keys are
/// one AMX tile of consecutive cache lines. Keys beyond `count` are zero.
void KernelLowering::emitPackAMX(Value rows, Value stride, Value count, Value out) {
  Type element = valueElement();
  int64_t columns = kernelTensorType(2).getExtents()[3];
  VectorType halves = e->vec(builder.getI16Type());
  e->loop(e->cst(0), e->cst(blockKv / 32), 1, [&](Value chunk) {
    SmallVector<Value> keys;
    for (int64_t k = 0; k < 32; ++k) {
      Value row = e->add(e->mul(chunk, 32), k);
      keys.push_back(
          e->select(e->lt(row, count), e->at(rows, e->mul(row, stride), element), zeros()));
    }
    e->loop(e->cst(0), e->cst(columns), lanes, [&](Value d) {
      SmallVector<Value> pairs;
      for (int64_t k = 0; k < 32; k += 2) {
        auto wide = [&](Value key) -> Value {
          return arith::ExtUIOp::create(builder, e->loc, e->vecI32(),
                                        e->load(halves, e->at(key, d, element)));
        };
        Value high = arith::ShLIOp::create(builder, e->loc, wide(keys[k + 1]), e->splatI32(16));
        pairs.push_back(arith::OrIOp::create(builder, e->loc, wide(keys[k]), high));
      }
      e->transpose(pairs);
      for (auto [i, v] : llvm::enumerate(pairs)) {
        Value line = e->add(e->add(e->mul(chunk, columns), d), i);
        e->store(v, e->at(out, e->mul(line, 16), e->i32()), 64);
      }
    });
  });
}

//===----------------------------------------------------------------------===//
// tile.fill and tile.store
//===----------------------------------------------------------------------===//

void KernelLowering::lowerFill(tile::FillOp op) {
  tile::TileType type = op.getResult().getType();
  int64_t steps = type.getRank() == 1 ? 1 : type.getNumColumns();
  TileStorage s;
  s.kind = type.getRank() == 1 ? TileStorage::Stats : TileStorage::Panel;
  s.base = allocate(steps * blockQ * 4);
  s.rows = steps;
  Value v = e->splatF32(op.getValue().convertToFloat());
  e->loop(e->cst(0), e->mul(queryEnd, steps), lanes,
          [&](Value i) { e->store(v, e->at(s.base, i, e->f32())); });
  tiles[op.getResult()] = s;
}

LogicalResult KernelLowering::lowerStore(tile::StoreOp op) {
  if (op.getTile().getType().getRank() == 2) {
    storeRows(op);
    return success();
  }
  // One number a row: what the caller may leave out.
  if (!op.getTensor().getType().getElementType().isF32())
    return op.emitError("expects an f32 tensor for one number a row");
  Value pointer = argPointer(argumentIndex(op.getTensor()));
  Value address = LLVM::PtrToIntOp::create(builder, e->loc, e->i64(), pointer);
  Value isWanted =
      arith::CmpIOp::create(builder, e->loc, arith::CmpIPredicate::ne, address, e->cst(0));
  e->ifThen(isWanted, [&] {
    Value first = scalarI64(op.getRow());
    Value count = validRows(first, blockQ, argWord(HEED_ARG_SQ));
    Value stride = rowStride(op.getTensor());
    Value base = tensorBase(op.getTensor(), scalarI64(op.getBatch()), scalarI64(op.getHead()));
    e->loop(e->cst(0), count, 1, [&](Value i) {
      Value v = e->load(e->f32(), e->at(storage(op.getTile()).base, i, e->f32()));
      e->store(v, e->at(base, e->mul(e->add(first, i), stride), e->f32()));
    });
  });
  return success();
}

void KernelLowering::storeRows(tile::StoreOp op) {
  int64_t columns = op.getTile().getType().getNumColumns();
  Type element = op.getTensor().getType().getElementType();
  const TileStorage panel = storage(op.getTile());
  Value first = scalarI64(op.getRow());
  Value count = validRows(first, blockQ, argWord(HEED_ARG_SQ));
  Value stride = rowStride(op.getTensor());
  Value base = e->at(tensorBase(op.getTensor(), scalarI64(op.getBatch()), scalarI64(op.getHead())),
                     e->mul(first, stride), element);
  Value nowhere = allocate(columns * 4); // rows beyond Sq go here
  // Two dims of bf16 are transposed as one vector of pairs.
  int64_t ofPairs = element.isBF16() ? columns / (2 * lanes) * 2 * lanes : 0;
  int64_t main = columns / lanes * lanes;
  e->loop(e->cst(0), e->cst(main), lanes,
          [&](Value d) { prefetchRows(base, stride, e->cst(0), d, element); });
  e->loop(e->cst(0), queryEnd, lanes, [&](Value lane) {
    SmallVector<Value> rows;
    for (int64_t i = 0; i < lanes; ++i) {
      Value row = e->add(lane, i);
      rows.push_back(
          e->select(e->lt(row, count), e->at(base, e->mul(row, stride), element), nowhere));
    }
    Value factor =
        panel.rowFactors ? e->load(e->vecF32(), e->at(panel.rowFactors, lane, e->f32())) : Value();
    auto load = [&](Value d) {
      Value offset = laneOffset(panel, d, lane);
      Value v = e->load(e->vecF32(), e->at(panel.base, offset, e->f32()));
      return factor ? scaleRow(v, factor) : v;
    };
    auto storeColumns = [&](int64_t begin, int64_t end, bool isPairs) {
      int64_t step = isPairs ? 2 * lanes : lanes;
      e->loop(e->cst(begin), e->cst(end), step, [&](Value d) {
        prefetchRows(base, stride, e->add(lane, lanes), d, element);
        SmallVector<Value> vectors;
        for (int64_t k = 0; k < step; k += step / lanes) {
          Value v = load(e->add(d, k));
          vectors.push_back(isPairs ? e->packPairs(v, load(e->add(d, k + 1))) : v);
        }
        e->transpose(vectors);
        for (auto [row, v] : llvm::zip(rows, vectors)) {
          Value address = e->at(row, d, element);
          isPairs ? e->store(v, address, 2) : e->storeNarrowed(v, element, address);
        }
      });
    };
    if (ofPairs)
      storeColumns(0, ofPairs, /*isPairs=*/true);
    if (ofPairs < main)
      storeColumns(ofPairs, main, /*isPairs=*/false);
    e->loop(e->cst(main), e->cst(columns), 1, [&](Value d) {
      Value v = load(d);
      for (auto [i, row] : llvm::enumerate(rows))
        e->storeNarrowed(vector::ExtractOp::create(builder, e->loc, v, i), element,
                         e->at(row, d, element));
    });
  });
}
