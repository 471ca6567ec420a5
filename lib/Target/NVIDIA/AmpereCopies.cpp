//===-- AmpereCopies.cpp - Copies of kernels for sm_80 and later ----------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AmpereLowering.h"

#include "heed-c/Runtime.h"

using namespace mlir;
using namespace heed;
using namespace heed::nvidia;

//===----------------------------------------------------------------------===//
// Where tensors lie
//===----------------------------------------------------------------------===//

void AmpereLowering::locate(Buffer &buffer, const IRMapping &mapping, int64_t extentWord) {
  tile::LoadOp load = buffer.load;
  unsigned argument = argumentIndex(load.getTensor());
  auto strideBytes = [&](int64_t i) {
    return e.mul(uniform->word(strideWord(argument) + i), elementBytes);
  };
  auto offset = [&](Value index, int64_t i) {
    return e.mul(e.toI64(mapping.lookup(index)), strideBytes(i));
  };
  buffer.rowStride = strideBytes(2);
  buffer.numRows = uniform->word32(extentWord);
  Value address = uniform->word(argument);
  Value bits = e.bor(e.bor(address, buffer.rowStride), e.bor(strideBytes(0), strideBytes(1)));
  buffer.isAligned = e.eq(e.band(bits, kPieceBytes - 1), 0);
  address = e.add(address, e.add(offset(load.getBatch(), 0), offset(load.getHead(), 1)));
  int64_t headDim = load.getType().getNumColumns();
  buffer.knownColumns = buffer.columns;
  if (buffer.columns < headDim) {
    Value firstColumn = e.mul(slice, buffer.columns);
    address = e.add(address, e.toI64(e.mul(firstColumn, elementBytes)));
    if (headDim % buffer.columns != 0) {
      buffer.numColumns = e.sub(e.cst(headDim), firstColumn);
      buffer.knownColumns = 0;
    }
  } else if (headDim * elementBytes % kStepBytes != 0) {
    buffer.numColumns = e.cst(headDim);
  }
  buffer.address = address;
}

/// Two instances' accumulators and scores leave hardly any registers for the places of copies: from
/// 192 columns together on, or from 160 if the variant needs some of its own. To compute places
/// anew costs causal calls 4 to 8%.
bool AmpereLowering::isTight() {
  constexpr size_t kFewOps = 24;
  int64_t columns = value.columns + blockKv();
  if (warpInstances() < 2 || columns < 160)
    return false;
  return columns >= 192 || llvm::any_of(*loop.getBodyBlock(), [](Operation &op) {
           if (!isa<tile::MapOp, tile::MaskOp>(op) || op.getRegion(0).empty())
             return false;
           Block &stage = op.getRegion(0).front();
           bool reads = llvm::any_of(stage, [](Operation &inner) {
             return llvm::any_of(inner.getOperandTypes(), llvm::IsaPred<attn::TensorType>);
           });
           return reads || stage.getOperations().size() > kFewOps;
         });
}

void AmpereLowering::packPlaces(const BlockWalk::Tile &tile) {
  SmallVector<Value> numbers = {tile.batch, tile.head, tile.first, slice ? slice : e.cst(0)};
  if (isTight())
    for (Buffer *buffer : {&key, &value}) {
      buffer->packed = numbers.size();
      Value high = arith::ShRUIOp::create(builder, e.loc, buffer->address, e.cst64(32));
      numbers.append({e.toI32(buffer->address), e.toI32(high)});
    }
  packed = e.packLanes(numbers);
}

Value AmpereLowering::unpack(int64_t i) { return e.shuffleIndex(packed, e.cst(i)); }

Value AmpereLowering::addressOf(const Buffer &buffer) {
  if (buffer.packed < 0)
    return buffer.address;
  auto part = [&](int64_t i) -> Value {
    return arith::ExtUIOp::create(builder, e.loc, e.i64(), unpack(buffer.packed + i));
  };
  return e.bor(part(0), e.shl(part(1), 32));
}

//===----------------------------------------------------------------------===//
// Copies
//===----------------------------------------------------------------------===//

void AmpereLowering::commit() { e.ptx("cp.async.commit_group;", "", {}); }

void AmpereLowering::waitForAllBut(int64_t pending) {
  e.ptx("cp.async.wait_group " + Twine(pending) + ";", "", {});
}

void AmpereLowering::copyBlock(const Buffer &buffer, Value word, Value stage) {
  e.ifThen(e.ge(word, 0), [&] {
    Value destination = e.add(sharedBase, buffer.offset);
    if (schedule.getStages() > 1)
      destination = e.add(destination, e.mul(stage, buffer.stageBytes()));
    copy(buffer, e.mul(e.shr(word, 8), blockKv()), destination);
  });
  commit();
}

void AmpereLowering::copy(const Buffer &buffer, Value firstRow, Value destination) {
  e.ifThen(buffer.isAligned, [&] { copyPieces(buffer, firstRow, destination); });
  e.ifThen(e.negate(buffer.isAligned), [&] { copyElements(buffer, firstRow, destination); });
}

Value AmpereLowering::copyingThread() { return isTight() ? e.freshThreadId() : e.threadId(); }

/// Up to eight neighbouring threads copy 128 bytes of a row.
void AmpereLowering::copyPieces(const Buffer &buffer, Value firstRow, Value destination) {
  int64_t pieces = llvm::alignTo(buffer.columns * elementBytes, kStepBytes) / kPieceBytes;
  int64_t across = std::min<int64_t>(8, llvm::bit_floor(uint64_t(pieces)));
  int64_t rowsPerPass = numThreads() / across;
  Value thread = copyingThread();
  Value row = e.div(thread, across), piece = e.rem(thread, across), base = addressOf(buffer);
  Value tensorRow = e.add(firstRow, row);
  Value source = e.add(e.add(base, e.mul(e.toI64(tensorRow), buffer.rowStride)),
                       e.toI64(e.mul(piece, kPieceBytes)));
  Value target = e.add(destination, e.add(e.mul(row, buffer.rowBytes), e.mul(piece, kPieceBytes)));
  SmallVector<Value> sizes; // of this thread's pieces of a row
  for (int64_t first = 0; first < pieces; first += across) {
    int64_t end = (first + across) * kPieceBytes;
    if (end <= buffer.knownColumns * elementBytes || !buffer.numColumns) {
      sizes.push_back(e.cst(kPieceBytes));
      continue;
    }
    Value left =
        e.sub(e.mul(buffer.numColumns, elementBytes), e.mul(e.add(piece, first), kPieceBytes));
    sizes.push_back(e.min(e.max(left, e.cst(0)), e.cst(kPieceBytes)));
  }
  for (int64_t pass = 0; pass * rowsPerPass < buffer.rows; ++pass) {
    Value exists = e.lt(e.add(tensorRow, pass * rowsPerPass), buffer.numRows);
    Value isRow;
    if ((pass + 1) * rowsPerPass > buffer.rows)
      isRow = e.lt(e.add(row, pass * rowsPerPass), e.cst(buffer.rows));
    for (int64_t k = 0; k < int64_t(sizes.size()); ++k) {
      Value isPiece = isRow;
      if ((k + 1) * across > pieces) {
        isPiece = e.lt(e.add(piece, k * across), e.cst(pieces));
        if (isRow)
          isPiece = e.band(isPiece, isRow);
      }
      SmallVector<Value> operands = {target, source, e.select(exists, sizes[k], e.cst(0))};
      std::string text =
          "cp.async.cg.shared.global.L2::128B [$0 + " +
          std::to_string(pass * rowsPerPass * buffer.rowBytes + k * across * kPieceBytes) +
          "], [$1 + " + std::to_string(k * across * kPieceBytes) + "], 16, $2;";
      if (isPiece)
        operands.push_back(isPiece);
      e.ptx((isPiece ? "@$3 " : "") + text, isPiece ? "r,l,r,b" : "r,l,r", operands);
    }
    source = e.add(source, e.mul(buffer.rowStride, rowsPerPass));
  }
}

/// A thread gathers 16 bytes, element by element.
void AmpereLowering::copyElements(const Buffer &buffer, Value firstRow, Value destination) {
  int64_t pieces = llvm::alignTo(buffer.columns * elementBytes, kStepBytes) / kPieceBytes;
  int64_t perPiece = kPieceBytes / elementBytes;
  Value numColumns = buffer.numColumns ? buffer.numColumns : e.cst(buffer.columns);
  Value base = addressOf(buffer);
  e.loop(copyingThread(), e.cst(buffer.rows * pieces), e.cst(numThreads()), {},
         [&](Value index, ValueRange) -> Emitter::Values {
           Value row = e.div(index, pieces), piece = e.rem(index, pieces);
           Value tensorRow = e.add(firstRow, row), column = e.mul(piece, perPiece);
           Value source = e.add(e.add(base, e.mul(e.toI64(tensorRow), buffer.rowStride)),
                                e.toI64(e.mul(piece, kPieceBytes)));
           Value left =
               e.select(e.lt(tensorRow, buffer.numRows), e.sub(numColumns, column), e.cst(0));
           SmallVector<Value> words;
           for (int64_t i = 0; i < perPiece; ++i) {
             Value exists = e.cmp(arith::CmpIPredicate::sgt, left, e.cst(i));
             std::string at = "[$1 + " + std::to_string(i * elementBytes) + "]";
             if (!is16Bit()) {
               words.push_back(e.ptx("{ mov.b32 $0, 0; @$2 ld.global.nc.b32 $0, " + at + "; }",
                                     "=&r,l,b", {source, exists}, e.i32())[0]);
               continue;
             }
             Value half = e.ptx("{ .reg .b16 h; mov.b16 h, 0; @$2 ld.global.nc.b16 h, " + at +
                                    "; cvt.u32.u16 $0, h; }",
                                "=r,l,b", {source, exists}, e.i32())[0];
             if (i % 2 == 0)
               words.push_back(half);
             else
               words.back() = e.bor(words.back(), e.shl(half, 16));
           }
           Value target =
               e.add(destination, e.add(e.mul(row, buffer.rowBytes), e.mul(piece, kPieceBytes)));
           words.insert(words.begin(), target);
           e.ptx("st.shared.v4.b32 [$0], {$1, $2, $3, $4};", "r,r,r,r,r", words);
           return {};
         });
}
