//===-- Interpreter.h - Runs attn programs in float64 -----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The oracle. It runs what an attn.variant means, by plain loops over host memory, and shares
// nothing with the lowering.
//
// Numbers: a value of any floating-point type is computed in float64 and never rounded to f32, so
// the result is what a kernel approximates rather than what it computes bit by bit (an explicit
// arith.truncf to f16 or bf16 does round). Integers wrap at the width of their type, `index` has 64
// bits. f16 and bf16 memory is read exactly.
//
// Regions are compiled once to a flat list of instructions over numbered slots; values that depend
// on no argument are computed while compiling. An evaluation is one pass of a dispatch loop: 10 to
// 50 ns for a usual mask, so soundness tests may evaluate every pair. Ops that are not supported
// are diagnosed by name when the region is compiled.
//
// Evaluators hold their state: copy one for each thread.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_INTERPRETER_INTERPRETER_H
#define HEED_INTERPRETER_INTERPRETER_H

#include "heed/Dialect/Attn/IR/Attn.h"

#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/SmallVector.h"

#include <cstdint>
#include <optional>
#include <type_traits>
#include <variant>
#include <vector>

namespace heed::interpreter {

//===----------------------------------------------------------------------===//
// Host data
//===----------------------------------------------------------------------===//

enum class DType : uint8_t { Bool, I8, I32, I64, F16, BF16, F32, F64 };

inline bool isFloat(DType dtype) { return dtype >= DType::F16; }
/// Bytes of an element.
unsigned sizeOf(DType dtype);

/// A strided array that the caller owns. Strides count elements.
struct HostTensor {
  const void *data = nullptr;
  DType dtype = DType::F32;
  llvm::SmallVector<int64_t, 4> shape;
  llvm::SmallVector<int64_t, 4> strides;

  HostTensor() = default;
  HostTensor(const void *data, DType dtype, llvm::ArrayRef<int64_t> shape,
             llvm::ArrayRef<int64_t> strides)
      : data(data), dtype(dtype), shape(shape), strides(strides) {}
  /// A dense array in row-major order.
  HostTensor(const void *data, DType dtype, llvm::ArrayRef<int64_t> shape);

  int64_t getRank() const { return shape.size(); }
  /// Where `indices` lies, in elements; -1 outside the array.
  int64_t offsetOf(llvm::ArrayRef<int64_t> indices) const;
  /// The element at an offset in elements, which must lie in the array. Integers for an integer
  /// type, bool as 0 or 1.
  double readDouble(int64_t offset) const;
  int64_t readInt(int64_t offset) const;
};

/// What a capture, or any value outside an evaluated region, is bound to.
using HostValue = std::variant<int64_t, double, HostTensor>;

/// The values of attn.extent.
struct Extents {
  int64_t B = 1, Hq = 1, Hkv = 1, Sq = 1, Skv = 1, D = 1, Dv = 1;
};

/// A scalar that goes into or comes out of a region: `f` for a floating-point type, `i` for all
/// others (i1: 0 or 1).
union Scalar {
  int64_t i;
  double f;

  Scalar() : i(0) {}
  template <typename T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
  Scalar(T value) : i(value) {}
  Scalar(double value) : f(value) {}
};

//===----------------------------------------------------------------------===//
// Regions
//===----------------------------------------------------------------------===//

/// Evaluates a region of one block with ops of arith, math and attn, scf.if and scf.for. The block
/// ends with a return-like op, whose operands are the results.
class RegionEvaluator {
public:
  /// The instructions that regions are compiled to; private to the implementation.
  enum class Opcode : uint8_t;
  using Bindings = llvm::DenseMap<mlir::Value, HostValue>;

  /// Compiles `region`. `bindings` gives values for block arguments and for values from outside the
  /// region; ops outside the region that nobody bound are evaluated where they can be. (An op
  /// inside, all of whose results are bound, is not evaluated either.) Emits a diagnostic where
  /// something is unbound, bound to the wrong kind of value, or not supported.
  static mlir::FailureOr<RegionEvaluator> compile(mlir::Region &region,
                                                  const Bindings &bindings = Bindings(),
                                                  const Extents &extents = Extents());

  /// Runs the region. `arguments` are the block arguments that are not bound, in order.
  void evaluate(llvm::ArrayRef<Scalar> arguments);
  unsigned getNumArguments() const { return arguments.size(); }
  unsigned getNumResults() const { return results.size(); }
  /// A result of the last evaluation.
  Scalar getResult(unsigned index = 0) const {
    Scalar result = slots[results[index].slot];
    if (results[index].shift == kBoolShift)
      result.i &= 1;
    return result;
  }

  /// Whether any evaluation so far did what is undefined in arith: an integer division by zero or
  /// with overflow, or a loop whose step is not positive. (Results are then 0.) What is poison
  /// gives some number and is not noticed.
  bool sawUndefinedBehavior() const { return isUndefined; }

private:
  friend class RegionCompiler;
  static constexpr unsigned kBoolShift = 63;

  /// `slots[dst] = opcode(slots[a], slots[b], slots[c])`. `shift` is 64 less the width of the
  /// integer type; `extra` depends on the opcode.
  struct Instruction {
    Opcode opcode;
    uint8_t shift;
    uint8_t extra;
    uint32_t dst, a, b, c;
  };
  struct Place {
    uint32_t slot;
    uint8_t shift;
  };

  void run(llvm::ArrayRef<Instruction> code);
  int64_t loadOffset(const HostTensor &tensor, const uint32_t *indices) const;

  std::vector<Instruction> code;
  /// Values by number. Integers are kept sign-extended from their width, so i1 is 0 or -1 here.
  std::vector<Scalar> slots;
  std::vector<HostTensor> tensors;
  /// Slots of the indices of loads.
  std::vector<uint32_t> operandLists;
  llvm::SmallVector<Place> arguments, results;
  bool isUndefined = false;
};

//===----------------------------------------------------------------------===//
// Variants
//===----------------------------------------------------------------------===//

/// The stages of a variant with its captures bound. A missing stage is the identity.
class StageEvaluator {
public:
  static mlir::FailureOr<StageEvaluator>
  create(attn::VariantOp variant, llvm::ArrayRef<HostValue> captures, const Extents &extents);

  bool evalMask(int64_t b, int64_t h, int64_t q, int64_t kv) {
    if (!mask)
      return true;
    mask->evaluate({b, h, q, kv});
    return mask->getResult().i != 0;
  }
  double evalScore(double s, int64_t b, int64_t h, int64_t q, int64_t kv) {
    if (!score)
      return s;
    score->evaluate({s, b, h, q, kv});
    return score->getResult().f;
  }

private:
  std::optional<RegionEvaluator> score, mask;
};

/// The operands of an attn.forward.
struct ForwardProblem {
  HostTensor query; // B, Hq, Sq, D
  HostTensor key;   // B, Hkv, Skv, D
  HostTensor value; // B, Hkv, Skv, Dv
  double scale = 1.0;
  std::vector<HostValue> captures;

  Extents getExtents() const;
};

/// A row of the output.
struct Row {
  int64_t b, h, q;
};

/// Every row of a problem, in memory order of a dense output.
std::vector<Row> allRows(const ForwardProblem &problem);

/// Computes rows of attn.forward: `output` becomes rows x Dv, `lse` one number a row. A row that
/// attends to nothing has output 0 and lse -inf. Emits a diagnostic at `variant` where the problem
/// does not fit it.
mlir::LogicalResult interpretRows(attn::VariantOp variant, const ForwardProblem &problem,
                                  llvm::ArrayRef<Row> rows, std::vector<double> &output,
                                  std::vector<double> &lse);

} // namespace heed::interpreter

#endif // HEED_INTERPRETER_INTERPRETER_H
