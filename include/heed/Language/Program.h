//===-- Program.h - A checked, fully expanded .heed program -----*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What the language front end hands to the next level. Everything that belongs
// to the text is gone: functions, named masks and named scores are inlined,
// loops are unrolled, vectors are scalars, names are resolved, and every
// conversion is an explicit node. What is left is, for each variant, its
// parameters and up to two expression DAGs:
//
//   variant v(w: index) { mask_mod(b, h, q, kv) { let d = q - kv
//                                                 return d >= 0 && d < w } }
//
//   %0 = coordinate q      %1 = coordinate kv     %2 = sub i32 %0, %1
//   %3 = constant i32 0    %4 = ge i32 %2, %3     %5 = param i32 w
//   %6 = lt i32 %2, %5     %7 = and bool %4, %6   result %7
//
// A node is used by as many others as its value is ('let' shares, it does not
// copy). All nodes are pure and total: an index outside a tensor does not
// fault, an integer division by zero gives zero (see docs/language.md), so a
// consumer may evaluate them in any order, any number of times.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LANGUAGE_PROGRAM_H
#define HEED_LANGUAGE_PROGRAM_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/IntrusiveRefCntPtr.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Allocator.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/VirtualFileSystem.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace llvm {
class SourceMgr;
class raw_ostream;
} // namespace llvm

namespace heed::lang {

/// The type of a computed value. Integers are signed and wrap; there is one
/// float type, because everything is computed in f32.
enum class ValueType : uint8_t { Bool, I32, I64, F32 };

/// The type of a tensor's elements in memory. A load gives the value type that
/// valueTypeOf() names: i8 reads as i32, f16 and bf16 read as f32.
enum class ElementType : uint8_t { Bool, I8, I32, I64, F16, BF16, F32 };

ValueType valueTypeOf(ElementType type);
llvm::StringRef spelling(ValueType type);
llvm::StringRef spelling(ElementType type);

/// The sizes of the attention problem, known at run time.
enum class Size : uint8_t { B, Hq, Hkv, Sq, Skv, D, Dv };

llvm::StringRef spelling(Size size);

/// A place in a source file. `file` lives as long as the CheckedProgram.
struct Location {
  llvm::StringRef file;
  unsigned line = 0;   // from 1
  unsigned column = 0; // from 1, in bytes
};

/// One extent of a tensor parameter: a number, a size, or `?` (any length).
struct Extent {
  enum class Kind : uint8_t { Number, Symbol, Any };
  Kind kind = Kind::Any;
  int64_t number = 0;  // if Number; at least 1
  Size size = Size::B; // if Symbol

  friend bool operator==(const Extent &a, const Extent &b) {
    return a.kind == b.kind && (a.kind != Kind::Number || a.number == b.number) &&
           (a.kind != Kind::Symbol || a.size == b.size);
  }
  friend bool operator!=(const Extent &a, const Extent &b) { return !(a == b); }
};

/// The value of a scalar that is known while compiling. A bool and an integer
/// are in `integer` (0 or 1 for bool), an f32 is in `real`, exactly
/// representable as f32 (or infinite).
struct ScalarConstant {
  ValueType type = ValueType::I32;
  int64_t integer = 0;
  double real = 0.0;
};

/// A parameter of a variant: a run-time scalar, a compile-time scalar, or a
/// tensor.
struct Parameter {
  llvm::StringRef name;
  Location loc;
  /// For a scalar one of Bool, I32, I64, F32.
  ElementType elementType = ElementType::F32;
  /// Empty for a scalar.
  llvm::ArrayRef<Extent> extents;
  /// A scalar's default, already of the parameter's type; for a constant
  /// parameter its value (from the default or from CheckOptions::defines).
  std::optional<ScalarConstant> value;
  /// Compiled in: no Param node refers to it, uses are Constant nodes.
  bool isConst = false;

  bool isTensor() const { return !extents.empty(); }
  unsigned rank() const { return extents.size(); }
};

enum class NodeKind : uint8_t {
  Constant,   // `constant`
  Coordinate, // `coordinate`; Score is F32, the others are I32
  Extent,     // `size`, I32
  Param,      // scalar parameter number `param`
  Load,       // tensor parameter number `param`, one I32 or I64 operand an axis
  Unary,      // `unary`, one operand of the result's type
  Binary,     // `binary`, two operands of one type (see operandType())
  Math,       // `math`, one operand of the result's type
  Select,     // operands: condition (Bool), if true, if false
  Cast,       // one operand of another type, see below
};

enum class Coordinate : uint8_t { Score, B, H, Q, KV };

enum class UnaryOp : uint8_t {
  Neg, // I32, I64 (wraps), F32
  Not, // Bool: logical; I32, I64: every bit
};

enum class BinaryOp : uint8_t {
  Add, // I32, I64 (wrap), F32
  Sub, // as Add
  Mul, // as Add
  Div, // F32 only: true division
  // Python's floor semantics: the quotient is rounded down, and the remainder
  // has the divisor's sign. Integers by zero give 0 for both (and the smallest
  // integer by -1 wraps); F32 is floor(a / b) and a - b * floor(a / b).
  FloorDiv, // I32, I64, F32
  Mod,      // I32, I64, F32
  Min,      // I32, I64, F32 (a NaN operand gives NaN)
  Max,      // as Min
  Pow,      // F32
  And,      // Bool (the language's && and &), I32, I64
  Or,       // as And
  Xor,      // as And
  Shl,      // I32, I64; the checker has put the amount into 0..bits-1
  Shr,      // arithmetic shift, amount as for Shl
  // Comparisons: the result is Bool. F32 compares as IEEE does: only Ne is true
  // if an operand is NaN. Eq and Ne also compare Bool.
  Eq,
  Ne,
  Lt,
  Le,
  Gt,
  Ge,
};

/// Functions on F32, except Abs, which also takes I32 and I64 (and wraps).
/// Other functions of the language are expanded into these.
enum class MathFn : uint8_t {
  Abs,
  Floor,
  Ceil,
  Exp,
  Exp2,
  Log,
  Log2,
  Log1p,
  Tanh,
  Sin,
  Cos,
  Sqrt,
  Rsqrt,
  Erf,
};

inline bool isComparison(BinaryOp op) { return op >= BinaryOp::Eq; }

llvm::StringRef spelling(Coordinate coordinate);
llvm::StringRef spelling(UnaryOp op);
llvm::StringRef spelling(BinaryOp op);
llvm::StringRef spelling(MathFn fn);

/// One value. Nodes are immutable once the program is returned.
///
/// The casts that occur, and what they mean: I32 -> I64; I64 -> I32 (wraps);
/// Bool -> I32, I64, F32 (0 or 1); I32, I64 -> F32 (rounds to nearest); F32 ->
/// I32, I64 (towards zero, saturates, NaN gives 0). There is no cast to Bool:
/// the checker writes a comparison with zero.
struct Node {
  NodeKind kind = NodeKind::Constant;
  ValueType type = ValueType::I32;
  UnaryOp unary = UnaryOp::Neg;
  BinaryOp binary = BinaryOp::Add;
  MathFn math = MathFn::Abs;
  Coordinate coordinate = Coordinate::Q;
  Size size = Size::B;
  unsigned param = 0; // index into Variant::params
  unsigned id = 0;    // this node's place in Function::nodes
  ScalarConstant constant;
  llvm::ArrayRef<const Node *> operands;
  Location loc;

  const Node *operand(unsigned i) const { return operands[i]; }
  /// The type that a Binary, Unary, Math or Cast node computes in.
  ValueType operandType() const { return operands[0]->type; }
};

/// A score_mod or mask_mod. `nodes` holds exactly what `result` needs, operands
/// before users; nodes[i]->id == i.
struct Function {
  Location loc;
  std::vector<const Node *> nodes;
  const Node *result = nullptr; // score: F32; mask: Bool
};

struct Variant {
  llvm::StringRef name;
  Location loc;
  std::vector<Parameter> params;
  std::optional<Function> score; // absent: the score is unchanged
  std::optional<Function> mask;  // absent: every pair attends
};

/// The variants of one file, in its order. (Variants of imported files are
/// checked, but are not part of the program.)
class CheckedProgram {
public:
  CheckedProgram() = default;
  CheckedProgram(const CheckedProgram &) = delete;
  CheckedProgram &operator=(const CheckedProgram &) = delete;

  std::vector<Variant> variants;
  /// What was read for it: the main file, then what is imported; not the standard library.
  std::vector<llvm::StringRef> files;

  const Variant *lookup(llvm::StringRef name) const;
  /// The same, or an error that says which variants there are; `file` is what it calls the program.
  llvm::Expected<const Variant *> require(llvm::StringRef name, llvm::StringRef file) const;

  /// The text form shown above; for tests and for `heedc --emit=checked`.
  void print(llvm::raw_ostream &os) const;

  /// Owns nodes, names and arrays of all variants.
  llvm::BumpPtrAllocator &arena() { return allocator; }

private:
  llvm::BumpPtrAllocator allocator;
};

struct CheckOptions {
  /// Values for scalar parameters, as -D NAME=VALUE or -D VARIANT.NAME=VALUE
  /// gives them: the name and the text of a literal. The parameter becomes
  /// constant, whether or not it is declared `const`.
  std::vector<std::pair<std::string, std::string>> defines;
  std::string definesOf; // the variant whose parameters plain NAMEs are; empty: all variants
  /// Where imports (and checkFile's path) are read from; the real file system
  /// if null.
  llvm::IntrusiveRefCntPtr<llvm::vfs::FileSystem> fileSystem = nullptr;
};

/// Reads, parses, checks and expands a file. Diagnostics go through
/// `sourceMgr` (to its handler if one is set, to stderr otherwise). Returns null
/// if there was an error.
std::unique_ptr<CheckedProgram> checkFile(llvm::StringRef path, llvm::SourceMgr &sourceMgr,
                                          const CheckOptions &options = {});

/// The same for text in memory. `name` is the file name that diagnostics show,
/// and what relative imports start from.
std::unique_ptr<CheckedProgram> checkSource(llvm::StringRef text, llvm::StringRef name,
                                            llvm::SourceMgr &sourceMgr,
                                            const CheckOptions &options = {});

} // namespace heed::lang

#endif // HEED_LANGUAGE_PROGRAM_H
