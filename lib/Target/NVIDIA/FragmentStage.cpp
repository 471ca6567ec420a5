//===-- FragmentStage.cpp - Evaluates stages on accumulator fragments -----===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FragmentStage.h"

#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace heed;
using namespace heed::nvidia;

bool FragmentStage::Form::isBoundedWith(const Form &other) const {
  return bound >= 0 && other.bound >= 0 && bound + other.bound <= INT32_MAX;
}

FragmentStage::FragmentStage(Emitter &e, Scalars &scalars, Block &block, Value score, Value q,
                             Value kv, const llvm::DenseMap<Value, Beside> &beside)
    : e(e), scalars(scalars), block(block), scoreArg(score), qArg(q), kvArg(kv), beside(beside) {
  if (score)
    dependences[score] = OnScore;
  dependences[q] = OnQ;
  dependences[kv] = OnKv;
  for (const auto &[argument, tile] : beside)
    dependences[argument] = tile.isAlongKeys ? OnKv : OnQ | OnKv;
  for (Operation &op : block) {
    unsigned all = 0;
    for (Value operand : op.getOperands())
      all |= dependence(operand);
    for (Value result : op.getResults())
      dependences[result] = all;
  }
}

void FragmentStage::hoist(const IRMapping &outerMapping, Value firstQ) {
  outer = outerMapping;
  isHoisting = true;
  uniforms.clear();
  hoisted.clear();
  for (int64_t row : {0, 1}) {
    byRow[row].clear();
    byRow[row][qArg] = {firstQ, 8 * row, Value(), kMaxCoordinate};
  }
  for (Operation &op : block.without_terminator()) {
    unsigned d = dependence(op.getResult(0));
    if (d == 0)
      form(op.getResult(0), {0, 0});
    if (d == OnQ)
      for (int64_t row : {0, 1})
        form(op.getResult(0), {row, 0});
    if (d & OnKv)
      divisorOf(op, {0, 0});
  }
  isHoisting = false;
}

void FragmentStage::beginBlock(Value firstKv) {
  blockKv = firstKv;
  byColumn.clear();
  inBlock.clear();
  pairsBeside.clear();
}

void FragmentStage::readAhead(int64_t numElements) {
  for (BlockArgument argument : block.getArguments())
    if (auto it = beside.find(argument); it != beside.end() && it->second.readsAhead)
      for (int64_t i = 0; i < numElements; i += 2)
        form(argument, Element::ofRegister(i));
}

Value FragmentStage::evaluate(Value v, Element element, Value score) {
  byElement.clear();
  if (scoreArg)
    byElement[scoreArg] = {score, 0, Value(), -1};
  return value(v, element);
}

std::optional<FragmentStage::Choice> FragmentStage::uniformChoice() {
  auto select = result().getDefiningOp<arith::SelectOp>();
  if (!select || select->getBlock() != &block || dependence(select.getCondition()) != 0)
    return std::nullopt;
  return Choice{value(select.getCondition(), {0, 0}), select.getTrueValue(),
                select.getFalseValue()};
}

Value FragmentStage::addend() {
  auto sum = result().getDefiningOp<arith::AddFOp>();
  if (!sum || !scoreArg)
    return {};
  for (int64_t side : {0, 1})
    if (sum->getOperand(side) == scoreArg && !(dependence(sum->getOperand(1 - side)) & OnScore))
      return sum->getOperand(1 - side);
  return {};
}

std::optional<std::pair<Value, Value>> FragmentStage::rowAddends(int64_t numElements) {
  Value added = addend();
  if (!added || dependence(added) == 0)
    return std::nullopt;
  Value bases[2];
  for (int64_t i = 0; i < numElements; ++i) {
    Element element = Element::ofRegister(i);
    byElement.clear();
    Form sum = form(added, element);
    if (!sum.base || (sum.offset && !sum.unit))
      return std::nullopt;
    Value &base = bases[element.row];
    if (base && base != sum.base)
      return std::nullopt;
    base = sum.base;
  }
  return std::make_pair(bases[0], bases[1]);
}

Value FragmentStage::evaluateBesides(Element element, Value score) {
  byElement.clear();
  Form sum = form(addend(), element);
  return sum.offset ? e.fma(e.cstF32(float(sum.offset)), sum.unit, score) : score;
}

FragmentStage::Form FragmentStage::form(Value v, Element element) {
  if (v.getParentBlock() != &block) {
    APInt constant;
    bool isBounded = v.getType().isInteger(32) && matchPattern(v, m_ConstantInt(&constant));
    return {outer.lookupOrDefault(v), 0, Value(),
            isBounded ? std::abs(constant.getSExtValue()) : -1};
  }
  unsigned d = dependence(v);
  if (d == OnKv && v == kvArg)
    return {blockKv, element.column, Value(), kMaxCoordinate};
  if (auto it = beside.find(v); it != beside.end()) {
    Element first{it->second.isAlongKeys ? 0 : element.row, element.column & ~int64_t(1)};
    auto &pair = pairsBeside[{v.getAsOpaquePointer(), first.row, first.column}];
    if (!pair[0])
      pair = it->second.read(first);
    return {pair[element.column & 1], 0, Value(), -1};
  }
  auto lookup = [&](auto &map, auto key) {
    auto it = map.find(key);
    if (it != map.end())
      return it->second;
    Form result = evaluateOp(*v.getDefiningOp(), element);
    map[key] = result;
    return result;
  };
  if (d == 0)
    return lookup(uniforms, v);
  if (d == OnQ)
    return lookup(byRow[element.row], v);
  if (d == OnKv)
    return lookup(byColumn, std::make_pair(v, element.column));
  return lookup(byElement, v);
}

Value FragmentStage::combine(StringRef name, Value x, Value y, llvm::function_ref<Value()> emit) {
  auto key = std::make_tuple(name.str(), x ? x.getAsOpaquePointer() : nullptr,
                             y ? y.getAsOpaquePointer() : nullptr);
  auto it = hoisted.find(key);
  if (it != hoisted.end())
    return it->second;
  Combined &map = isHoisting ? hoisted : inBlock;
  Value &slot = map[key];
  if (!slot)
    slot = emit();
  return slot;
}

Value FragmentStage::materialize(const Form &form, Type type) {
  std::string offset = std::to_string(form.offset);
  if (type.isF32()) {
    if (form.offset == 0)
      return form.base ? form.base : e.cstF32(0.0f);
    Value constant = e.cstF32(float(form.offset));
    if (!form.unit)
      return form.base ? combine("f+" + offset, form.base, Value(),
                                 [&] { return e.fadd(form.base, constant); })
                       : constant;
    return combine("f+" + offset, form.base, form.unit, [&] {
      return form.base ? e.fma(constant, form.unit, form.base) : e.fmul(constant, form.unit);
    });
  }
  if (!form.base)
    return arith::ConstantIntOp::create(e.b, e.loc, type, form.offset);
  if (form.offset == 0)
    return form.base;
  return combine("i+" + offset, form.base, Value(), [&] { return e.add(form.base, form.offset); });
}

std::optional<FragmentStage::Form> FragmentStage::addForms(const Form &x, const Form &y,
                                                           int64_t sign, bool isFloat) {
  Form sum;
  sum.offset = x.offset + sign * y.offset;
  if (isFloat) {
    // a + c u and b + d u.
    if (x.offset && y.offset && x.unit != y.unit)
      return std::nullopt;
    sum.unit = x.offset ? x.unit : y.unit;
    if (!x.offset && sign < 0 && y.offset)
      sum.unit = y.unit;
  } else {
    sum.bound = x.bound >= 0 && y.bound >= 0 ? x.bound + y.bound : -1;
  }
  if (!y.base)
    sum.base = x.base;
  else if (!x.base && sign > 0)
    sum.base = y.base;
  else if (isFloat)
    sum.base = combine(sign > 0 ? "fadd" : "fsub", x.base, y.base, [&]() -> Value {
      if (!x.base)
        return e.fneg(y.base);
      return sign > 0 ? e.fadd(x.base, y.base) : e.fsub(x.base, y.base);
    });
  else
    sum.base = combine(sign > 0 ? "add" : "sub", x.base, y.base, [&] {
      return sign > 0 ? e.add(x.base, y.base) : e.sub(x.base ? x.base : e.cst(0), y.base);
    });
  return sum;
}

std::optional<attn::Divisor> FragmentStage::divisorOf(Operation &op, Element element) {
  if (!isa<attn::FloorDivOp, attn::ModOp>(op) || !op.getResult(0).getType().isInteger(32) ||
      dependence(op.getOperand(1)) != 0 || matchPattern(op.getOperand(1), m_Constant()))
    return std::nullopt;
  Value y = value(op.getOperand(1), element);
  std::optional<attn::Divisor> made;
  auto part = [&](StringRef name, Value attn::Divisor::*member) {
    return combine(name, y, Value(), [&] {
      if (!made)
        made = attn::emitDivisor(e.b, e.loc, y);
      return (*made).*member;
    });
  };
  return attn::Divisor{
      part("sign", &attn::Divisor::sign), part("magnitude", &attn::Divisor::magnitude),
      part("magic", &attn::Divisor::magic), part("isNonZero", &attn::Divisor::isNonZero)};
}

FragmentStage::Form FragmentStage::evaluateOp(Operation &op, Element element) {
  Type type = op.getResult(0).getType();
  bool isInteger = type.isInteger(32), dependsOnScore = dependence(op.getResult(0)) & OnScore;
  auto operand = [&](unsigned i) { return form(op.getOperand(i), element); };
  // A sum that does not involve the score shares what it adds up with the other elements.
  bool isShared = !dependsOnScore;

  if (auto constant = dyn_cast<arith::ConstantOp>(op); constant && isInteger) {
    int64_t v = cast<IntegerAttr>(constant.getValue()).getInt();
    return {Value(), v, Value(), std::abs(v)};
  }
  if (isInteger && isShared && isa<arith::AddIOp, arith::SubIOp>(op))
    return *addForms(operand(0), operand(1), isa<arith::AddIOp>(op) ? 1 : -1, /*isFloat=*/false);
  if (isInteger && isShared && isa<arith::MulIOp>(op)) {
    Form x = operand(0), y = operand(1);
    if (!x.base)
      std::swap(x, y);
    if (!y.base && std::abs(y.offset) <= INT32_MAX && std::abs(x.offset) <= INT32_MAX) {
      Form product;
      product.offset = x.offset * y.offset;
      product.bound = x.bound >= 0 && x.bound <= INT32_MAX ? x.bound * std::abs(y.offset) : -1;
      if (x.base)
        product.base = combine("mul" + std::to_string(y.offset), x.base, Value(),
                               [&] { return e.mul(x.base, y.offset); });
      if (std::abs(product.offset) <= INT32_MAX)
        return product;
    }
  }
  if (auto compare = dyn_cast<arith::CmpIOp>(op);
      compare && isShared && compare.getLhs().getType().isInteger(32)) {
    auto predicate = compare.getPredicate();
    bool isUnsigned =
        predicate == arith::CmpIPredicate::ult || predicate == arith::CmpIPredicate::ule ||
        predicate == arith::CmpIPredicate::ugt || predicate == arith::CmpIPredicate::uge;
    Form x = operand(0), y = operand(1);
    if (!isUnsigned && x.isBoundedWith(y)) {
      Form difference = *addForms(x, y, -1, /*isFloat=*/false);
      Value base = difference.base ? difference.base : e.cst(0);
      return {combine(("cmp" + arith::stringifyCmpIPredicate(predicate) + "_" +
                       std::to_string(difference.offset))
                          .str(),
                      base, Value(),
                      [&] { return e.cmp(predicate, base, e.cst(-difference.offset)); }),
              0, Value(), -1};
    }
  }
  if (auto convert = dyn_cast<arith::SIToFPOp>(op);
      convert && convert.getIn().getType().isInteger(32)) {
    Form x = operand(0);
    if (x.bound >= 0 && x.bound <= INT32_MAX && isShared) {
      Form result;
      result.offset = x.offset;
      if (x.base)
        result.base = combine("sitofp", x.base, Value(), [&]() -> Value {
          return arith::SIToFPOp::create(e.b, e.loc, e.f32(), x.base);
        });
      return result;
    }
  }
  if (type.isF32() && isShared && isa<arith::NegFOp>(op)) {
    Form x = operand(0);
    Form result = x;
    result.offset = -x.offset;
    if (x.base)
      result.base = combine("neg", x.base, Value(), [&] { return e.fneg(x.base); });
    return result;
  }
  if (type.isF32() && isShared && isa<arith::AddFOp, arith::SubFOp>(op))
    if (auto sum = addForms(operand(0), operand(1), isa<arith::AddFOp>(op) ? 1 : -1, true))
      return *sum;
  if (type.isF32() && isShared && isa<arith::MulFOp>(op)) {
    // (a + c u) v = a v + c (u v) for a uniform v.
    unsigned other = dependence(op.getOperand(1)) == 0 ? 1 : 0;
    Form x = operand(1 - other);
    // Also where the offset happens to be 0: elements have to share the base.
    if (dependence(op.getOperand(other)) == 0) {
      Value factor = value(op.getOperand(other), element);
      Form result;
      result.offset = x.offset;
      result.unit =
          x.unit ? combine("fmul", x.unit, factor, [&] { return e.fmul(x.unit, factor); }) : factor;
      if (x.base)
        result.base = combine("fmul", x.base, factor, [&] { return e.fmul(x.base, factor); });
      return result;
    }
  }

  if (std::optional<attn::Divisor> divisor = divisorOf(op, element)) {
    Form x = operand(0);
    if (x.bound >= 0 && x.bound < INT32_MAX) {
      Value dividend = materialize(x, type);
      if (isa<attn::FloorDivOp>(op))
        return {attn::emitFloorDiv(e.b, e.loc, dividend, *divisor), 0, Value(), x.bound};
      return {attn::emitMod(e.b, e.loc, dividend, *divisor), 0, Value(), -1};
    }
  }

  SmallVector<Value> operands;
  for (Value v : op.getOperands())
    operands.push_back(isa<attn::TensorType>(v.getType()) ? v : value(v, element));
  unsigned ofPair = OnQ | OnKv;
  if (areConditionsWhole && type.isInteger(1) && isa<arith::AndIOp, arith::OrIOp>(op) &&
      (dependence(op.getResult(0)) & ofPair) == ofPair)
    return {isa<arith::AndIOp>(op) ? e.both(operands[0], operands[1])
                                   : e.either(operands[0], operands[1]),
            0, Value(), -1};
  Form result{scalars.emitOp(op, operands), 0, Value(), -1};
  if (isInteger && isa<arith::SelectOp>(op)) {
    Form x = operand(1), y = operand(2);
    result.bound = x.bound >= 0 && y.bound >= 0 ? std::max(x.bound, y.bound) : -1;
  }
  return result;
}
