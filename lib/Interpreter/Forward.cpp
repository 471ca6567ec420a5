//===-- Forward.cpp - Runs attn.forward by plain loops --------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Interpreter/Interpreter.h"

#include "mlir/IR/Diagnostics.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace heed;
using namespace heed::interpreter;

//===----------------------------------------------------------------------===//
// StageEvaluator
//===----------------------------------------------------------------------===//

FailureOr<StageEvaluator> StageEvaluator::create(attn::VariantOp variant,
                                                 ArrayRef<HostValue> captures,
                                                 const Extents &extents) {
  if (captures.size() != variant.getCaptures().size())
    return variant.emitOpError("expects values for ")
           << variant.getCaptures().size() << " captures, found " << captures.size();
  RegionEvaluator::Bindings bindings;
  for (auto [capture, value] : llvm::zip(variant.getCaptures(), captures))
    bindings.try_emplace(capture, value);

  StageEvaluator evaluator;
  auto compile = [&](auto stage, std::optional<RegionEvaluator> &result) -> LogicalResult {
    if (!stage)
      return success();
    FailureOr<RegionEvaluator> compiled =
        RegionEvaluator::compile(stage.getBody(), bindings, extents);
    if (failed(compiled))
      return failure();
    result = std::move(*compiled);
    return success();
  };
  if (failed(compile(variant.getStage<attn::ScoreOp>(), evaluator.score)) ||
      failed(compile(variant.getStage<attn::MaskOp>(), evaluator.mask)))
    return failure();
  return evaluator;
}

//===----------------------------------------------------------------------===//
// attn.forward
//===----------------------------------------------------------------------===//

Extents ForwardProblem::getExtents() const {
  return {query.shape[0], query.shape[1], key.shape[1],  query.shape[2],
          key.shape[2],   query.shape[3], value.shape[3]};
}

std::vector<Row> heed::interpreter::allRows(const ForwardProblem &problem) {
  Extents extents = problem.getExtents();
  std::vector<Row> rows;
  rows.reserve(extents.B * extents.Hq * extents.Sq);
  for (int64_t b = 0; b < extents.B; ++b)
    for (int64_t h = 0; h < extents.Hq; ++h)
      for (int64_t q = 0; q < extents.Sq; ++q)
        rows.push_back({b, h, q});
  return rows;
}

static LogicalResult verifyProblem(attn::VariantOp variant, const ForwardProblem &problem) {
  const HostTensor &query = problem.query, &key = problem.key, &value = problem.value;
  for (const HostTensor *tensor : {&query, &key, &value})
    if (tensor->getRank() != 4 || tensor->strides.size() != 4 || !isFloat(tensor->dtype))
      return variant.emitOpError(
          "expects query, key and value of rank 4 and a floating-point type");
  if (key.shape[0] != query.shape[0] || value.shape[0] != query.shape[0])
    return variant.emitOpError("expects query, key and value of one batch size");
  if (key.shape[3] != query.shape[3])
    return variant.emitOpError("expects query and key to share the head dim");
  if (value.shape[1] != key.shape[1] || value.shape[2] != key.shape[2])
    return variant.emitOpError("expects key and value to share heads and length");
  if (key.shape[1] < 1 || query.shape[1] % key.shape[1] != 0)
    return variant.emitOpError(
               "expects the number of query heads to be a multiple of that of key heads, found ")
           << query.shape[1] << " and " << key.shape[1];
  return success();
}

LogicalResult heed::interpreter::interpretRows(attn::VariantOp variant,
                                               const ForwardProblem &problem, ArrayRef<Row> rows,
                                               std::vector<double> &output,
                                               std::vector<double> &lse) {
  if (failed(verifyProblem(variant, problem)))
    return failure();
  Extents extents = problem.getExtents();
  FailureOr<StageEvaluator> stages = StageEvaluator::create(variant, problem.captures, extents);
  if (failed(stages))
    return failure();

  constexpr double infinity = std::numeric_limits<double>::infinity();
  const HostTensor &query = problem.query, &key = problem.key, &value = problem.value;
  int64_t groupSize = extents.Hq / extents.Hkv;
  output.assign(rows.size() * extents.Dv, 0.0);
  lse.assign(rows.size(), -infinity);
  std::vector<double> queryRow(extents.D);
  std::vector<std::pair<int64_t, double>> scores; // of the pairs that attend

  for (auto [rowIndex, row] : llvm::enumerate(rows)) {
    if (query.offsetOf({row.b, row.h, row.q, 0}) < 0 && extents.D > 0)
      return variant.emitOpError("expects rows inside the output");
    int64_t kvHead = row.h / groupSize;
    for (int64_t d = 0; d < extents.D; ++d)
      queryRow[d] = query.readDouble(query.offsetOf({row.b, row.h, row.q, d}));

    scores.clear();
    double max = -infinity;
    bool hasNaN = false;
    for (int64_t kv = 0; kv < extents.Skv; ++kv) {
      if (!stages->evalMask(row.b, row.h, row.q, kv))
        continue;
      double dot = 0;
      for (int64_t d = 0; d < extents.D; ++d)
        dot += queryRow[d] * key.readDouble(key.offsetOf({row.b, kvHead, kv, d}));
      double score = stages->evalScore(dot * problem.scale, row.b, row.h, row.q, kv);
      // A score of -inf masks the pair: its value row is not touched, not even if it is NaN.
      if (score == -infinity)
        continue;
      hasNaN |= std::isnan(score);
      max = std::fmax(max, score);
      scores.emplace_back(kv, score);
    }
    if (scores.empty())
      continue;

    // Scores that are all NaN have no maximum; any number will do.
    if (hasNaN && max == -infinity)
      max = 0;
    double sum = 0;
    double *outputRow = output.data() + rowIndex * extents.Dv;
    for (auto [kv, score] : scores) {
      double weight = std::exp(score - max);
      sum += weight;
      for (int64_t d = 0; d < extents.Dv; ++d)
        outputRow[d] += weight * value.readDouble(value.offsetOf({row.b, kvHead, kv, d}));
    }
    for (int64_t d = 0; d < extents.Dv; ++d)
      outputRow[d] /= sum;
    lse[rowIndex] = max + std::log(sum);
  }
  return success();
}
