//===-- Dependence.cpp - What the values of a stage depend on -------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Analysis/Dependence.h"

#include "heed/Dialect/Attn/IR/Attn.h"

#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace heed;

std::string Dependence::str() const {
  static constexpr const char *names[] = {"s", "b", "h", "q", "kv"};
  std::string text = "{";
  for (unsigned i = 0; i < std::size(names); ++i)
    if (bits >> i & 1)
      text += (text.size() > 1 ? ", " : "") + std::string(names[i]);
  return text + "}";
}

llvm::raw_ostream &heed::operator<<(llvm::raw_ostream &os, Dependence dependence) {
  return os << dependence.str();
}

DependenceAnalysis::DependenceAnalysis(Operation *stage) {
  static constexpr Dependence arguments[] = {Dependence::score(), Dependence::b(), Dependence::h(),
                                             Dependence::q(), Dependence::kv()};
  assert((isa<attn::ScoreOp, attn::MaskOp>(stage)) && "expects a stage of a variant");
  run(stage->getRegion(0), ArrayRef(arguments).drop_front(isa<attn::ScoreOp>(stage) ? 0 : 1));
}

DependenceAnalysis::DependenceAnalysis(Region &region, ArrayRef<Dependence> arguments) {
  run(region, arguments);
}

void DependenceAnalysis::run(Region &region, ArrayRef<Dependence> arguments) {
  Block &block = region.front();
  for (auto [argument, dependence] : llvm::zip_equal(block.getArguments(), arguments))
    dependences[argument] = dependence;
  visitBlock(block);
  result = joinOf(block.getTerminator()->getOperands());
}

Dependence DependenceAnalysis::joinOf(ValueRange values) const {
  Dependence dependence;
  for (Value value : values)
    dependence |= lookup(value);
  return dependence;
}

bool DependenceAnalysis::join(ValueRange values, Dependence dependence) {
  bool hasGrown = false;
  for (Value value : values) {
    Dependence &entry = dependences[value];
    hasGrown |= !dependence.isSubsetOf(entry);
    entry |= dependence;
  }
  return hasGrown;
}

bool DependenceAnalysis::visitBlock(Block &block) {
  bool hasGrown = false;
  for (Operation &op : block)
    hasGrown |= visitOp(op);
  return hasGrown;
}

/// A result depends on the operands, and where the op has regions (scf.if, scf.for) on what they
/// yield. Region arguments depend on the operands and, because a loop feeds back what it yields, on
/// that as well.
bool DependenceAnalysis::visitOp(Operation &op) {
  Dependence flow = joinOf(op.getOperands());
  bool hasGrown = false, isAgain = op.getNumRegions() != 0;
  while (isAgain) {
    isAgain = false;
    for (Region &region : op.getRegions())
      for (Block &block : region) {
        isAgain |= join(block.getArguments(), flow);
        isAgain |= visitBlock(block);
        if (block.mightHaveTerminator()) {
          Dependence yielded = joinOf(block.getTerminator()->getOperands());
          isAgain |= !yielded.isSubsetOf(flow);
          flow |= yielded;
        }
      }
    hasGrown |= isAgain;
  }
  return join(op.getResults(), flow) || hasGrown;
}
