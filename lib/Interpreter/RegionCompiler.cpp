//===-- RegionCompiler.cpp - Compiles regions of scalar ops ---------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The compiler gives every SSA value a slot and every op an instruction. Structured control flow
// becomes jumps. Slots that hold bindings, constants, or anything computed from those only are
// filled while compiling: such instructions go to a prologue that runs once.
//
//===----------------------------------------------------------------------===//

#include "Instructions.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Diagnostics.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace heed;
using namespace heed::interpreter;

using Opcode = RegionEvaluator::Opcode;

namespace heed::interpreter {

class RegionCompiler {
public:
  RegionCompiler(RegionEvaluator &evaluator, const RegionEvaluator::Bindings &bindings,
                 const Extents &extents)
      : evaluator(evaluator), bindings(bindings), extents(extents) {}

  LogicalResult compile(Region &region);

private:
  using Instruction = RegionEvaluator::Instruction;

  uint32_t newSlot(bool isKnown, Scalar value = {}) {
    evaluator.slots.push_back(value);
    known.push_back(isKnown);
    return evaluator.slots.size() - 1;
  }
  /// Emits an op: `dst` is a new slot for `result`.
  void emit(Value result, Opcode opcode, ArrayRef<uint32_t> operands, unsigned shift = 0,
            unsigned extra = 0);
  /// Emits into the body, whatever the operands. Returns the place of the instruction.
  size_t emitControl(Opcode opcode, uint32_t dst, uint32_t a = 0, uint32_t b = 0,
                     unsigned shift = 0) {
    evaluator.code.push_back({opcode, uint8_t(shift), 0, dst, a, b, 0});
    return evaluator.code.size() - 1;
  }
  void setTarget(size_t jump) { evaluator.code[jump].c = evaluator.code.size(); }

  /// The slot of a value that `user` reads.
  FailureOr<uint32_t> slotFor(Value value, Operation *user);
  FailureOr<SmallVector<uint32_t>> slotsFor(ValueRange values, Operation *user);
  FailureOr<uint32_t> bind(Value value, const HostValue &bound);
  FailureOr<uint32_t> tensorFor(attn::LoadOp load);

  LogicalResult compileBlock(Block &block);
  LogicalResult compileOp(Operation &op);
  LogicalResult compileLoad(attn::LoadOp op);
  LogicalResult compileExtent(attn::ExtentOp op);
  LogicalResult compileConstant(arith::ConstantOp op);
  LogicalResult compileCast(Operation &op, uint32_t operand);
  LogicalResult compileIf(scf::IfOp op);
  LogicalResult compileFor(scf::ForOp op);

  RegionEvaluator &evaluator;
  const RegionEvaluator::Bindings &bindings;
  const Extents &extents;
  DenseMap<Value, uint32_t> slotOf;
  DenseMap<Value, uint32_t> tensorOf;
  /// By slot: whether its value is fixed once the prologue has run.
  std::vector<bool> known;
  std::vector<Instruction> prologue;
  /// Set while compiling an op from outside the region, which runs in the prologue whatever it is.
  bool isOutside = false;
};

} // namespace heed::interpreter

/// Integers of up to 64 bits, index, and floating-point numbers.
static bool isScalar(Type type) {
  if (auto integer = dyn_cast<IntegerType>(type))
    return integer.getWidth() >= 1 && integer.getWidth() <= 64;
  return isa<IndexType>(type) || isa<Float16Type, BFloat16Type, Float32Type, Float64Type>(type);
}

static unsigned shiftOf(Type type) {
  auto integer = dyn_cast<IntegerType>(type);
  return integer ? 64 - integer.getWidth() : 0;
}

static bool mayBeUndefined(Opcode opcode) {
  return opcode >= Opcode::DivSI && opcode <= Opcode::CeilDivUI;
}

void RegionCompiler::emit(Value result, Opcode opcode, ArrayRef<uint32_t> operands, unsigned shift,
                          unsigned extra) {
  bool isKnown = llvm::all_of(operands, [&](uint32_t slot) { return known[slot]; }) &&
                 (isOutside || !mayBeUndefined(opcode));
  Instruction instruction = {opcode, uint8_t(shift), uint8_t(extra), newSlot(isKnown), 0, 0, 0};
  uint32_t *fields[] = {&instruction.a, &instruction.b, &instruction.c};
  for (auto [field, operand] : llvm::zip(fields, operands))
    *field = operand;
  (isKnown ? prologue : evaluator.code).push_back(instruction);
  slotOf[result] = instruction.dst;
}

static InFlightDiagnostic emitUnbound(Operation *user, Value value, const Twine &expected) {
  InFlightDiagnostic diag = user->emitOpError("reads a value that the interpreter has no ")
                            << expected << " for";
  diag.attachNote(value.getLoc()) << "the value, of type " << value.getType()
                                  << ", is defined here";
  return diag;
}

FailureOr<uint32_t> RegionCompiler::bind(Value value, const HostValue &bound) {
  Type type = value.getType();
  Scalar scalar;
  if (!isScalar(type) || std::holds_alternative<HostTensor>(bound))
    return emitError(value.getLoc())
           << "a value of type " << type << " is bound to "
           << (std::holds_alternative<HostTensor>(bound) ? "a tensor" : "a number");
  if (auto *integer = std::get_if<int64_t>(&bound)) {
    if (isa<FloatType>(type))
      scalar.f = double(*integer);
    else
      scalar.i = wrap(*integer, shiftOf(type));
  } else if (isa<FloatType>(type)) {
    scalar.f = std::get<double>(bound);
  } else {
    return emitError(value.getLoc())
           << "a value of type " << type << " is bound to a floating-point number";
  }
  return slotOf[value] = newSlot(/*isKnown=*/true, scalar);
}

FailureOr<uint32_t> RegionCompiler::slotFor(Value value, Operation *user) {
  if (auto it = slotOf.find(value); it != slotOf.end())
    return it->second;
  if (auto it = bindings.find(value); it != bindings.end())
    return bind(value, it->second);
  // What dominates the use inside the region has a slot by now, so this comes from outside.
  Operation *op = value.getDefiningOp();
  if (!op || op->getNumRegions() != 0)
    return emitUnbound(user, value, "number");
  bool wasOutside = std::exchange(isOutside, true);
  LogicalResult result = compileOp(*op);
  isOutside = wasOutside;
  if (failed(result))
    return failure();
  return slotOf.lookup(value);
}

FailureOr<SmallVector<uint32_t>> RegionCompiler::slotsFor(ValueRange values, Operation *user) {
  SmallVector<uint32_t> slots;
  for (Value value : values) {
    FailureOr<uint32_t> slot = slotFor(value, user);
    if (failed(slot))
      return failure();
    slots.push_back(*slot);
  }
  return slots;
}

//===----------------------------------------------------------------------===//
// attn ops and constants
//===----------------------------------------------------------------------===//

FailureOr<uint32_t> RegionCompiler::tensorFor(attn::LoadOp load) {
  Value value = load.getTensor();
  if (auto it = tensorOf.find(value); it != tensorOf.end())
    return it->second;
  auto it = bindings.find(value);
  const HostTensor *tensor = it == bindings.end() ? nullptr : std::get_if<HostTensor>(&it->second);
  if (!tensor)
    return emitUnbound(load, value, "tensor");
  attn::TensorType type = load.getTensor().getType();
  bool fits = tensor->getRank() == type.getRank() &&
              tensor->shape.size() == tensor->strides.size() &&
              isFloat(tensor->dtype) == isa<FloatType>(type.getElementType());
  for (int64_t axis = 0; fits && axis < type.getRank(); ++axis)
    fits = type.getExtents()[axis] < 0 || type.getExtents()[axis] == tensor->shape[axis];
  if (!fits)
    return emitError(value.getLoc())
           << "a value of type " << type << " is bound to a tensor of another rank, extent or kind";
  evaluator.tensors.push_back(*tensor);
  return tensorOf[value] = evaluator.tensors.size() - 1;
}

LogicalResult RegionCompiler::compileLoad(attn::LoadOp op) {
  FailureOr<uint32_t> tensor = tensorFor(op);
  FailureOr<SmallVector<uint32_t>> indices = slotsFor(op.getIndices(), op);
  if (failed(tensor) || failed(indices))
    return failure();
  Type type = op.getResult().getType();
  // Never known in advance inside the region: the caller may change the memory between evaluations.
  Instruction instruction = {Opcode::Load,
                             uint8_t(shiftOf(type)),
                             isa<FloatType>(type),
                             newSlot(/*isKnown=*/isOutside),
                             *tensor,
                             uint32_t(evaluator.operandLists.size()),
                             0};
  llvm::append_range(evaluator.operandLists, *indices);
  (isOutside ? prologue : evaluator.code).push_back(instruction);
  slotOf[op.getResult()] = instruction.dst;
  return success();
}

LogicalResult RegionCompiler::compileExtent(attn::ExtentOp op) {
  int64_t value;
  switch (*attn::parseExtentSymbol(op.getSymbol())) {
  case attn::Extent::B:
    value = extents.B;
    break;
  case attn::Extent::Hq:
    value = extents.Hq;
    break;
  case attn::Extent::Hkv:
    value = extents.Hkv;
    break;
  case attn::Extent::Sq:
    value = extents.Sq;
    break;
  case attn::Extent::Skv:
    value = extents.Skv;
    break;
  case attn::Extent::D:
    value = extents.D;
    break;
  case attn::Extent::Dv:
    value = extents.Dv;
    break;
  default:
    return op.emitOpError("is not supported by the interpreter");
  }
  slotOf[op.getResult()] = newSlot(/*isKnown=*/true, value);
  return success();
}

LogicalResult RegionCompiler::compileConstant(arith::ConstantOp op) {
  Scalar value;
  if (auto integer = dyn_cast<IntegerAttr>(op.getValue()))
    value.i = integer.getValue().getSExtValue();
  else
    value.f = cast<FloatAttr>(op.getValue()).getValueAsDouble();
  slotOf[op.getResult()] = newSlot(/*isKnown=*/true, value);
  return success();
}

//===----------------------------------------------------------------------===//
// Control flow
//===----------------------------------------------------------------------===//

LogicalResult RegionCompiler::compileBlock(Block &block) {
  for (Operation &op : block.without_terminator())
    if (failed(compileOp(op)))
      return failure();
  return success();
}

LogicalResult RegionCompiler::compileIf(scf::IfOp op) {
  FailureOr<uint32_t> condition = slotFor(op.getCondition(), op);
  if (failed(condition))
    return failure();
  for (Value result : op.getResults())
    slotOf[result] = newSlot(/*isKnown=*/false);
  auto compileBranch = [&](Region &region) -> LogicalResult {
    if (region.empty())
      return success();
    Block &block = region.front();
    if (failed(compileBlock(block)))
      return failure();
    FailureOr<SmallVector<uint32_t>> yielded =
        slotsFor(block.getTerminator()->getOperands(), block.getTerminator());
    if (failed(yielded))
      return failure();
    for (auto [result, slot] : llvm::zip(op.getResults(), *yielded))
      emitControl(Opcode::Move, slotOf[result], slot);
    return success();
  };
  size_t toElse = emitControl(Opcode::JumpIfFalse, 0, *condition);
  if (failed(compileBranch(op.getThenRegion())))
    return failure();
  size_t toEnd = emitControl(Opcode::Jump, 0);
  setTarget(toElse);
  if (failed(compileBranch(op.getElseRegion())))
    return failure();
  setTarget(toEnd);
  return success();
}

LogicalResult RegionCompiler::compileFor(scf::ForOp op) {
  if (op.getUnsignedCmp())
    return op.emitOpError("with unsigned bounds is not supported by the interpreter");
  FailureOr<SmallVector<uint32_t>> operands = slotsFor(op->getOperands(), op);
  if (failed(operands))
    return failure();
  uint32_t lower = (*operands)[0], upper = (*operands)[1], step = (*operands)[2];
  uint32_t induction = slotOf[op.getInductionVar()] = newSlot(/*isKnown=*/false);
  emitControl(Opcode::Move, induction, lower);
  // A result is the slot of its iteration argument: it keeps the last value.
  SmallVector<uint32_t> carried;
  for (auto [argument, result, init] : llvm::zip_equal(op.getRegionIterArgs(), op.getResults(),
                                                       ArrayRef(*operands).drop_front(3))) {
    uint32_t slot = newSlot(/*isKnown=*/false);
    slotOf[argument] = slotOf[result] = slot;
    carried.push_back(slot);
    emitControl(Opcode::Move, slot, init);
  }

  size_t checkStep = emitControl(Opcode::CheckStep, 0, step);
  size_t top = emitControl(Opcode::JumpUnlessLess, 0, induction, upper);
  if (failed(compileBlock(*op.getBody())))
    return failure();
  Operation *yield = op.getBody()->getTerminator();
  FailureOr<SmallVector<uint32_t>> yielded = slotsFor(yield->getOperands(), yield);
  if (failed(yielded))
    return failure();
  // Through temporaries: a loop may yield its arguments in another order.
  for (uint32_t &slot : *yielded) {
    uint32_t temporary = newSlot(/*isKnown=*/false);
    emitControl(Opcode::Move, temporary, slot);
    slot = temporary;
  }
  for (auto [slot, value] : llvm::zip_equal(carried, *yielded))
    emitControl(Opcode::Move, slot, value);
  emitControl(Opcode::AddI, induction, induction, step, shiftOf(op.getInductionVar().getType()));
  size_t again = emitControl(Opcode::Jump, 0);
  evaluator.code[again].c = top;
  setTarget(checkStep);
  setTarget(top);
  return success();
}

//===----------------------------------------------------------------------===//
// Ops that are one instruction
//===----------------------------------------------------------------------===//

static const llvm::StringMap<Opcode> &simpleOpcodes() {
  static const llvm::StringMap<Opcode> opcodes = {
      {"arith.addi", Opcode::AddI},
      {"arith.subi", Opcode::SubI},
      {"arith.muli", Opcode::MulI},
      {"arith.andi", Opcode::AndI},
      {"arith.ori", Opcode::OrI},
      {"arith.xori", Opcode::XOrI},
      {"arith.minsi", Opcode::MinSI},
      {"arith.maxsi", Opcode::MaxSI},
      {"arith.minui", Opcode::MinUI},
      {"arith.maxui", Opcode::MaxUI},
      {"arith.shli", Opcode::ShLI},
      {"arith.shrsi", Opcode::ShRSI},
      {"arith.shrui", Opcode::ShRUI},
      {"arith.divsi", Opcode::DivSI},
      {"arith.remsi", Opcode::RemSI},
      {"arith.floordivsi", Opcode::FloorDivSI},
      {"arith.ceildivsi", Opcode::CeilDivSI},
      {"arith.divui", Opcode::DivUI},
      {"arith.remui", Opcode::RemUI},
      {"arith.ceildivui", Opcode::CeilDivUI},
      {"arith.addf", Opcode::AddF},
      {"arith.subf", Opcode::SubF},
      {"arith.mulf", Opcode::MulF},
      {"arith.divf", Opcode::DivF},
      {"arith.negf", Opcode::NegF},
      {"arith.select", Opcode::Select},
      {"math.fma", Opcode::Call3},
      {"attn.floordiv", Opcode::TotalFloorDiv},
      {"attn.mod", Opcode::TotalMod},
  };
  return opcodes;
}

template <typename Function>
static std::optional<unsigned> findFunction(ArrayRef<Function> functions, StringRef name) {
  const auto *it =
      llvm::find_if(functions, [&](const Function &function) { return function.name == name; });
  if (it == functions.end())
    return std::nullopt;
  return it - functions.begin();
}

static Opcode opcodeOf(arith::CmpIPredicate predicate) {
  switch (predicate) {
  case arith::CmpIPredicate::eq:
    return Opcode::CmpEQ;
  case arith::CmpIPredicate::ne:
    return Opcode::CmpNE;
  case arith::CmpIPredicate::slt:
    return Opcode::CmpSLT;
  case arith::CmpIPredicate::sle:
    return Opcode::CmpSLE;
  case arith::CmpIPredicate::sgt:
    return Opcode::CmpSGT;
  case arith::CmpIPredicate::sge:
    return Opcode::CmpSGE;
  case arith::CmpIPredicate::ult:
    return Opcode::CmpULT;
  case arith::CmpIPredicate::ule:
    return Opcode::CmpULE;
  case arith::CmpIPredicate::ugt:
    return Opcode::CmpUGT;
  case arith::CmpIPredicate::uge:
    return Opcode::CmpUGE;
  }
  llvm_unreachable("unknown predicate");
}

/// Casts; a failure (without a diagnostic) where `op` is none.
LogicalResult RegionCompiler::compileCast(Operation &op, uint32_t operand) {
  Type from = op.getOperand(0).getType(), to = op.getResult(0).getType();
  Value result = op.getResult(0);
  return llvm::TypeSwitch<Operation *, LogicalResult>(&op)
      .Case<arith::ExtSIOp, arith::ExtFOp>([&](auto) {
        slotOf[result] = operand;
        return success();
      })
      .Case<arith::TruncIOp, arith::IndexCastOp>([&](auto) {
        emit(result, Opcode::Wrap, operand, shiftOf(to));
        return success();
      })
      .Case([&](arith::ExtUIOp) {
        emit(result, Opcode::ZExt, operand, shiftOf(from));
        return success();
      })
      .Case([&](arith::IndexCastUIOp) {
        bool isWider = shiftOf(to) < shiftOf(from);
        emit(result, isWider ? Opcode::ZExt : Opcode::Wrap, operand, shiftOf(isWider ? from : to));
        return success();
      })
      .Case([&](arith::SIToFPOp) {
        emit(result, Opcode::SIToFP, operand);
        return success();
      })
      .Case([&](arith::UIToFPOp) {
        emit(result, Opcode::UIToFP, operand, shiftOf(from));
        return success();
      })
      .Case([&](arith::FPToSIOp) {
        emit(result, Opcode::FPToSI, operand, shiftOf(to));
        return success();
      })
      .Case([&](arith::FPToUIOp) {
        emit(result, Opcode::FPToUI, operand, shiftOf(to));
        return success();
      })
      .Case([&](arith::TruncFOp) {
        if (to.isF32())
          slotOf[result] = operand;
        else
          emit(result, Opcode::Call1, operand, 0,
               *findFunction(unaryFunctions(), to.isF16() ? "to f16" : "to bf16"));
        return success();
      })
      .Default([](Operation *) { return failure(); });
}

LogicalResult RegionCompiler::compileOp(Operation &op) {
  if (op.getNumResults() != 0 &&
      llvm::all_of(op.getResults(), [&](Value result) { return bindings.contains(result); }))
    return success();
  auto unsupported = [&] { return op.emitOpError("is not supported by the interpreter"); };
  if (!llvm::all_of(op.getResultTypes(), isScalar))
    return unsupported() << " with result types " << op.getResultTypes();

  if (auto load = dyn_cast<attn::LoadOp>(op))
    return compileLoad(load);
  if (auto extent = dyn_cast<attn::ExtentOp>(op))
    return compileExtent(extent);
  if (auto constant = dyn_cast<arith::ConstantOp>(op))
    return compileConstant(constant);
  if (auto ifOp = dyn_cast<scf::IfOp>(op))
    return compileIf(ifOp);
  if (auto forOp = dyn_cast<scf::ForOp>(op))
    return compileFor(forOp);
  if (op.getNumResults() != 1 || op.getNumOperands() == 0 || op.getNumRegions() != 0 ||
      !llvm::all_of(op.getOperandTypes(), isScalar))
    return unsupported();

  FailureOr<SmallVector<uint32_t>> operands = slotsFor(op.getOperands(), &op);
  if (failed(operands))
    return failure();
  Value result = op.getResult(0);
  StringRef name = op.getName().getStringRef();
  if (auto it = simpleOpcodes().find(name); it != simpleOpcodes().end()) {
    emit(result, it->second, *operands, shiftOf(result.getType()));
    return success();
  }
  if (std::optional<unsigned> function = findFunction(unaryFunctions(), name)) {
    emit(result, Opcode::Call1, *operands, 0, *function);
    return success();
  }
  if (std::optional<unsigned> function = findFunction(binaryFunctions(), name)) {
    emit(result, Opcode::Call2, *operands, 0, *function);
    return success();
  }
  if (auto compare = dyn_cast<arith::CmpIOp>(op)) {
    emit(result, opcodeOf(compare.getPredicate()), *operands);
    return success();
  }
  if (auto compare = dyn_cast<arith::CmpFOp>(op)) {
    emit(result, Opcode::CmpF, *operands, 0, unsigned(compare.getPredicate()));
    return success();
  }
  if (succeeded(compileCast(op, (*operands)[0])))
    return success();
  return unsupported();
}

//===----------------------------------------------------------------------===//
// The region
//===----------------------------------------------------------------------===//

LogicalResult RegionCompiler::compile(Region &region) {
  Operation *parent = region.getParentOp();
  if (!region.hasOneBlock())
    return parent->emitOpError("is not supported by the interpreter: its region has ")
           << region.getBlocks().size() << " blocks";
  // Instructions without operands name slot 0, so that there must be one.
  newSlot(/*isKnown=*/true);
  Block &block = region.front();
  for (BlockArgument argument : block.getArguments()) {
    if (bindings.contains(argument))
      continue;
    if (!isScalar(argument.getType()))
      return emitUnbound(parent, argument, "tensor");
    uint32_t slot = slotOf[argument] = newSlot(/*isKnown=*/false);
    evaluator.arguments.push_back({slot, uint8_t(shiftOf(argument.getType()))});
  }
  if (!block.mightHaveTerminator() || !block.getTerminator()->hasTrait<OpTrait::ReturnLike>())
    return parent->emitOpError(
        "is not supported by the interpreter: its region has no terminator that returns values");
  if (failed(compileBlock(block)))
    return failure();
  Operation *terminator = block.getTerminator();
  FailureOr<SmallVector<uint32_t>> results = slotsFor(terminator->getOperands(), terminator);
  if (failed(results))
    return failure();
  for (auto [slot, value] : llvm::zip_equal(*results, terminator->getOperands()))
    evaluator.results.push_back({slot, uint8_t(shiftOf(value.getType()))});
  evaluator.run(prologue);
  return success();
}

FailureOr<RegionEvaluator> RegionEvaluator::compile(Region &region, const Bindings &bindings,
                                                    const Extents &extents) {
  RegionEvaluator evaluator;
  if (failed(RegionCompiler(evaluator, bindings, extents).compile(region)))
    return failure();
  return evaluator;
}
