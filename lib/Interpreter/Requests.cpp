//===-- Requests.cpp - The interpreter for other languages ----------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Interpreter/Requests.h"

#include "heed/Analysis/BlockClasses.h"
#include "heed/Dialect/Tile/IR/Tile.h"
#include "heed/Interpreter/Interpreter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>

using namespace mlir;
using namespace heed;
using namespace heed::interpreter;
namespace json = llvm::json;

namespace {

template <typename... Args>
llvm::Error makeError(Args &&...args) {
  return llvm::createStringError((llvm::Twine() + ... + llvm::Twine(args)).str());
}

//===----------------------------------------------------------------------===//
// The request
//===----------------------------------------------------------------------===//

/// What a request says, with the memory behind it.
class Request {
public:
  static llvm::Expected<Request> parse(StringRef text) {
    llvm::Expected<json::Value> value = json::parse(text);
    if (!value)
      return value.takeError();
    json::Object *object = value->getAsObject();
    if (!object)
      return makeError("the request is not an object");
    Request request;
    request.root = std::move(*object);
    return request;
  }

  const json::Object *section(StringRef name) const { return root.getObject(name); }
  std::optional<double> number(StringRef name) const { return root.getNumber(name); }

  llvm::Expected<HostTensor> tensor(const json::Object *holder, StringRef name) {
    const json::Object *object = holder ? holder->getObject(name) : nullptr;
    if (!object)
      return makeError("expected an array '", name, "'");
    static const std::pair<StringRef, DType> types[] = {
        {"bool", DType::Bool}, {"i8", DType::I8},     {"i32", DType::I32}, {"i64", DType::I64},
        {"f16", DType::F16},   {"bf16", DType::BF16}, {"f32", DType::F32}, {"f64", DType::F64}};
    std::optional<StringRef> typeName = object->getString("dtype"),
                             path = object->getString("path");
    const auto *type =
        llvm::find_if(types, [&](auto &t) { return typeName && t.first == *typeName; });
    const json::Array *extents = object->getArray("shape");
    if (type == std::end(types) || !path || !extents)
      return makeError("array '", name, "' needs 'path', a known 'dtype' and 'shape'");
    SmallVector<int64_t> shape;
    int64_t elements = 1;
    for (const json::Value &extent : *extents) {
      shape.push_back(extent.getAsInteger().value_or(-1));
      if (shape.back() < 0 || llvm::MulOverflow(elements, shape.back(), elements))
        return makeError("array '", name, "' has a bad shape");
    }
    auto buffer = llvm::MemoryBuffer::getFile(*path, /*IsText=*/false,
                                              /*RequiresNullTerminator=*/false);
    if (!buffer)
      return makeError("cannot read '", *path, "': ", buffer.getError().message());
    uint64_t offset = object->getInteger("offset").value_or(0), size = (*buffer)->getBufferSize();
    if (offset > size || uint64_t(elements) > (size - offset) / sizeOf(type->second))
      return makeError("'", *path, "' is too short for array '", name, "'");
    buffers.push_back(std::move(*buffer));
    return HostTensor(buffers.back()->getBufferStart() + offset, type->second, shape);
  }

  llvm::Expected<HostTensor> operand(StringRef name) { return tensor(&root, name); }

  /// Values for the captures of `variant`, in order.
  llvm::Expected<std::vector<HostValue>> captures(attn::VariantOp variant) {
    const json::Object *params = root.getObject("params");
    std::vector<HostValue> values;
    for (auto [index, capture] : llvm::enumerate(variant.getCaptures())) {
      std::string name = variant.getCaptureName(index);
      if (isa<attn::TensorType>(capture.getType())) {
        llvm::Expected<HostTensor> value = tensor(params, name);
        if (!value)
          return value.takeError();
        values.push_back(*value);
        continue;
      }
      bool isFloat = isa<FloatType>(capture.getType());
      const json::Value *value = params ? params->get(name) : nullptr;
      TypedAttr fallback = variant.getCaptureDefault(index);
      // JSON has no word for infinity.
      double word = 0;
      bool isWord = value && value->getAsString() && !value->getAsString()->getAsDouble(word);
      if (value && isFloat && value->getAsNumber())
        values.push_back(*value->getAsNumber());
      else if (isFloat && isWord)
        values.push_back(word);
      else if (value && !isFloat && (value->getAsInteger() || value->getAsBoolean()))
        values.push_back(value->getAsInteger().value_or(value->getAsBoolean().value_or(false)));
      else if (value || !fallback)
        return makeError("expected a number for parameter '", name, "'");
      else if (auto number = dyn_cast<FloatAttr>(fallback))
        values.push_back(number.getValueAsDouble());
      else
        values.push_back(cast<IntegerAttr>(fallback).getValue().getSExtValue());
    }
    return values;
  }

private:
  json::Object root;
  std::vector<std::unique_ptr<llvm::MemoryBuffer>> buffers;
};

llvm::Expected<std::string> pathIn(const json::Object &section, StringRef name) {
  if (std::optional<StringRef> path = section.getString(name))
    return path->str();
  return makeError("expected a path for '", name, "'");
}

template <typename T>
llvm::Error writeRaw(StringRef path, ArrayRef<T> data) {
  return llvm::writeToOutput(path, [&](llvm::raw_ostream &os) {
    os.write(reinterpret_cast<const char *>(data.data()), data.size() * sizeof(T));
    return llvm::Error::success();
  });
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

llvm::Error writeRows(attn::VariantOp variant, const ForwardProblem &problem,
                      const json::Object &section) {
  std::vector<Row> rows;
  const json::Array *places = section.getArray("at");
  if (!places)
    return makeError("expected an array 'at' of rows");
  Extents extents = problem.getExtents();
  for (const json::Value &place : *places) {
    const json::Array *row = place.getAsArray();
    if (!row || row->size() != 3)
      return makeError("expected rows of the form [b, h, q]");
    auto at = [&](int i) { return (*row)[i].getAsInteger().value_or(-1); };
    rows.push_back({at(0), at(1), at(2)});
    const Row &r = rows.back();
    if (r.b < 0 || r.b >= extents.B || r.h < 0 || r.h >= extents.Hq || r.q < 0 || r.q >= extents.Sq)
      return makeError("a row lies outside the output");
  }
  llvm::Expected<std::string> outputPath = pathIn(section, "output");
  if (!outputPath)
    return outputPath.takeError();
  llvm::Expected<std::string> lsePath = pathIn(section, "lse");
  if (!lsePath)
    return lsePath.takeError();
  std::vector<double> output, lse;
  if (failed(interpretRows(variant, problem, rows, output, lse)))
    return makeError("the variant cannot be interpreted");
  if (llvm::Error error = writeRaw<double>(*outputPath, output))
    return error;
  return writeRaw<double>(*lsePath, lse);
}

//===----------------------------------------------------------------------===//
// Classes
//===----------------------------------------------------------------------===//

/// Emits what the analysis finds for a box, before a return: results for it.
using EmitAnalysis =
    llvm::function_ref<SmallVector<Value>(OpBuilder &outer, OpBuilder &inner, attn::MaskOp mask,
                                          const IRMapping &mapping, const TileBox &box)>;

/// A function of the first and last query and key of a tile that returns what `emit` emits.
func::FuncOp emitAnalysis(attn::VariantOp variant, const json::Object &section, TypeRange results,
                          EmitAnalysis emit) {
  OpBuilder builder(variant);
  Location loc = variant.getLoc();
  auto mask = variant.getStage<attn::MaskOp>();
  SmallVector<Type> inputs(4, builder.getIndexType());
  llvm::append_range(inputs, TypeRange(variant.getBodyBlock()->getArgumentTypes()));
  auto func =
      func::FuncOp::create(builder, loc, "analysis", builder.getFunctionType(inputs, results));
  Block *block = func.addEntryBlock();
  builder.setInsertionPointToStart(block);
  IRMapping mapping;
  mapping.map(variant.getCaptures(), block->getArguments().drop_front(4));
  int64_t uniforms[] = {section.getInteger("b").value_or(0), section.getInteger("h").value_or(0)};
  for (auto [coordinate, value] : llvm::zip(mask.getCoordinates(), uniforms))
    mapping.map(coordinate,
                arith::ConstantIntOp::create(builder, loc, builder.getI32Type(), value));
  // `outer` emits before the separator, `inner` before the return.
  Operation *separator = arith::ConstantIndexOp::create(builder, loc, 0);
  auto end = func::ReturnOp::create(builder, loc);
  OpBuilder outer(separator), inner(end);
  TileBox box = {block->getArgument(0), block->getArgument(1), block->getArgument(2),
                 block->getArgument(3)};
  end.getOperandsMutable().assign(emit(outer, inner, mask, mapping, box));
  return func;
}

/// The compiled function of an analysis, which takes a box.
FailureOr<RegionEvaluator> compileAnalysis(func::FuncOp func, ArrayRef<HostValue> captures,
                                           const Extents &extents) {
  RegionEvaluator::Bindings bindings;
  for (auto [argument, value] : llvm::zip(func.getArguments().drop_front(4), captures))
    bindings.try_emplace(argument, value);
  return RegionEvaluator::compile(func.getBody(), bindings, extents);
}

llvm::Error writeClasses(attn::VariantOp variant, ArrayRef<HostValue> captures,
                         const Extents &extents, const json::Object &section) {
  auto number = [&](StringRef name) { return section.getInteger(name).value_or(0); };
  int64_t blockQ = number("block_q"), blockKv = number("block_kv");
  if (blockQ < 1 || blockKv < 1)
    return makeError("expected 'block_q' and 'block_kv' of at least 1");
  llvm::Expected<std::string> path = pathIn(section, "output");
  if (!path)
    return path.takeError();
  int64_t rows = llvm::divideCeil(extents.Sq, blockQ),
          columns = llvm::divideCeil(extents.Skv, blockKv);
  std::vector<int8_t> classes(rows * columns, int8_t(tile::BlockClass::Full));
  if (variant.getStage<attn::MaskOp>()) {
    func::FuncOp func =
        emitAnalysis(variant, section, IntegerType::get(variant.getContext(), 32),
                     [](OpBuilder &outer, OpBuilder &inner, attn::MaskOp mask,
                        const IRMapping &mapping, const TileBox &box) -> SmallVector<Value> {
                       return {emitBlockClass(outer, inner, mask, mapping, box)};
                     });
    FailureOr<RegionEvaluator> evaluator = compileAnalysis(func, captures, extents);
    if (failed(evaluator))
      return makeError("the classifier cannot be interpreted");
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column) {
        evaluator->evaluate({row * blockQ, std::min((row + 1) * blockQ, extents.Sq) - 1,
                             column * blockKv, std::min((column + 1) * blockKv, extents.Skv) - 1});
        classes[row * columns + column] = int8_t(evaluator->getResult().i);
      }
  }
  return writeRaw<int8_t>(*path, classes);
}

/// The keys [lower, upper) that the closed form leaves to each tile of queries.
llvm::Error writeBounds(attn::VariantOp variant, ArrayRef<HostValue> captures,
                        const Extents &extents, const json::Object &section) {
  int64_t blockQ = section.getInteger("block_q").value_or(0);
  if (blockQ < 1)
    return makeError("expected 'block_q' of at least 1");
  llvm::Expected<std::string> path = pathIn(section, "output");
  if (!path)
    return path.takeError();
  std::vector<int64_t> bounds;
  std::optional<RegionEvaluator> evaluator;
  if (variant.getStage<attn::MaskOp>()) {
    Type index = IndexType::get(variant.getContext());
    func::FuncOp func =
        emitAnalysis(variant, section, {index, index},
                     [](OpBuilder &, OpBuilder &inner, attn::MaskOp mask, const IRMapping &mapping,
                        const TileBox &box) -> SmallVector<Value> {
                       KvBounds keys = emitKvBounds(inner, mask, mapping, box);
                       return {keys.lower, keys.upper};
                     });
    FailureOr<RegionEvaluator> compiled = compileAnalysis(func, captures, extents);
    if (failed(compiled))
      return makeError("the bounds cannot be interpreted");
    evaluator = std::move(*compiled);
  }
  for (int64_t q = 0; q < extents.Sq; q += blockQ) {
    int64_t lower = 0, upper = extents.Skv;
    if (evaluator) {
      evaluator->evaluate({q, std::min(q + blockQ, extents.Sq) - 1, 0, extents.Skv - 1});
      lower = evaluator->getResult(0).i;
      upper = evaluator->getResult(1).i;
    }
    llvm::append_values(bounds, lower, upper);
  }
  return writeRaw<int64_t>(*path, bounds);
}

//===----------------------------------------------------------------------===//
// Pairs
//===----------------------------------------------------------------------===//

llvm::Error writePairs(attn::VariantOp variant, ArrayRef<HostValue> captures,
                       const Extents &extents, const json::Object &section) {
  llvm::Expected<std::string> path = pathIn(section, "output");
  if (!path)
    return path.takeError();
  FailureOr<StageEvaluator> stages = StageEvaluator::create(variant, captures, extents);
  if (failed(stages))
    return makeError("the variant cannot be interpreted");
  int64_t b = section.getInteger("b").value_or(0), h = section.getInteger("h").value_or(0);
  std::vector<int64_t> pairs(extents.Sq);
  for (int64_t q = 0; q < extents.Sq; ++q)
    for (int64_t kv = 0; kv < extents.Skv; ++kv)
      pairs[q] += stages->evalMask(b, h, q, kv);
  return writeRaw<int64_t>(*path, pairs);
}

} // namespace

llvm::Error heed::interpreter::runRequest(attn::VariantOp variant, StringRef text) {
  llvm::Expected<Request> parsed = Request::parse(text);
  if (!parsed)
    return parsed.takeError();
  Request &request = *parsed;
  llvm::Expected<std::vector<HostValue>> captures = request.captures(variant);
  if (!captures)
    return captures.takeError();
  ForwardProblem problem;
  Extents extents;
  problem.captures = *captures;
  if (const json::Object *given = request.section("extents")) {
    auto extent = [&](StringRef name) { return given->getInteger(name).value_or(1); };
    extents = {extent("B"),   extent("Hq"), extent("Hkv"), extent("Sq"),
               extent("Skv"), extent("D"),  extent("Dv")};
    if (request.section("rows"))
      return makeError("'rows' needs query, key and value instead of 'extents'");
  } else {
    std::pair<StringRef, HostTensor *> operands[] = {
        {"query", &problem.query}, {"key", &problem.key}, {"value", &problem.value}};
    for (auto [name, operand] : operands) {
      llvm::Expected<HostTensor> tensor = request.operand(name);
      if (!tensor)
        return tensor.takeError();
      if (tensor->getRank() != 4)
        return makeError("expected '", name, "' of rank 4");
      *operand = *tensor;
    }
    extents = problem.getExtents();
    problem.scale = request.number("scale").value_or(1 / std::sqrt(double(extents.D)));
  }
  if (const json::Object *rows = request.section("rows"))
    if (llvm::Error error = writeRows(variant, problem, *rows))
      return error;
  if (const json::Object *pairs = request.section("pairs"))
    if (llvm::Error error = writePairs(variant, *captures, extents, *pairs))
      return error;
  if (const json::Object *classes = request.section("classes"))
    if (llvm::Error error = writeClasses(variant, *captures, extents, *classes))
      return error;
  if (const json::Object *bounds = request.section("bounds"))
    return writeBounds(variant, *captures, extents, *bounds);
  return llvm::Error::success();
}
