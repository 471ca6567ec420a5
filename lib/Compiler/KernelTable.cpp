//===-- KernelTable.cpp - The heed_kernel of an object --------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelTable.h"

#include "heed/Conversion/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/IR/Constants.h"
#include "llvm/IR/Module.h"

using namespace heed;
using llvm::Constant;
using llvm::StringRef;

void KernelTable::addCode(mlir::ModuleOp module, StringRef name, const CPUTarget &target) {
  auto function = module.lookupSymbol<mlir::func::FuncOp>((name + "_tile").str());
  auto attributes = function->getAttrOfType<mlir::DictionaryAttr>("heed.code");
  auto number = [&](StringRef key) {
    return mlir::cast<mlir::IntegerAttr>(attributes.get(key)).getInt();
  };
  codes.push_back({target, number("block_q"), number("block_kv"), number("scratch_bytes"),
                   number("packed_bytes_per_block"), number("uses_lists") != 0});
  function->removeAttr("heed.code");
  if (codes.back().usesLists)
    addMaskCode(module, name, target);
}

void KernelTable::addMaskCode(mlir::ModuleOp module, StringRef name, const CPUTarget &target) {
  auto function = [&](StringRef suffix) {
    return module.lookupSymbol<mlir::func::FuncOp>((name + suffix).str());
  };
  auto box = function("_classify")->getAttrOfType<mlir::DictionaryAttr>(kBoxAttr);
  auto flag = [&](StringRef key) {
    return mlir::cast<mlir::IntegerAttr>(box.get(key)).getInt() != 0;
  };
  maskCodes.push_back({target, flag("uses_batch"), flag("uses_head")});
  for (StringRef suffix : {"_classify", "_count"})
    function(suffix)->removeAttr(kBoxAttr);
}

void KernelTable::addGPUCode(std::vector<GPUCode> added) {
  std::move(added.begin(), added.end(), std::back_inserter(gpuCodes));
}

void KernelTable::addGPUMaskCode(GPUMaskCode code) { gpuMaskCodes.push_back(std::move(code)); }

namespace {
/// Builds constants with the layout of the C structs: LLVM's natural alignment is C's.
class TableBuilder {
public:
  explicit TableBuilder(llvm::Module &module) : module(module), context(module.getContext()) {}

  Constant *i32(int64_t v) {
    return llvm::ConstantInt::getSigned(llvm::Type::getInt32Ty(context), v);
  }
  Constant *i64(int64_t v) {
    return llvm::ConstantInt::getSigned(llvm::Type::getInt64Ty(context), v);
  }
  Constant *null() { return llvm::ConstantPointerNull::get(llvm::PointerType::get(context, 0)); }
  Constant *string(StringRef text) {
    return global(llvm::ConstantDataArray::getString(context, text));
  }
  Constant *structure(llvm::ArrayRef<Constant *> fields) {
    return llvm::ConstantStruct::getAnon(context, fields);
  }
  /// A private array, or null for an empty one.
  Constant *array(llvm::ArrayRef<Constant *> elements) {
    if (elements.empty())
      return null();
    auto *type = llvm::ArrayType::get(elements.front()->getType(), elements.size());
    return global(llvm::ConstantArray::get(type, elements));
  }
  Constant *function(llvm::Twine name) {
    if (llvm::Function *f = module.getFunction(name.str()))
      return f;
    return null();
  }

private:
  llvm::GlobalVariable *global(Constant *value) {
    auto *g = new llvm::GlobalVariable(module, value->getType(), /*isConstant=*/true,
                                       llvm::GlobalValue::PrivateLinkage, value);
    g->setUnnamedAddr(llvm::GlobalValue::UnnamedAddr::Global);
    return g;
  }
  llvm::Module &module;
  llvm::LLVMContext &context;
};
} // namespace

static heed_dtype dtypeOf(lang::ElementType type) {
  switch (type) {
  case lang::ElementType::Bool:
    return HEED_BOOL;
  case lang::ElementType::I8:
    return HEED_I8;
  case lang::ElementType::I32:
    return HEED_I32;
  case lang::ElementType::I64:
    return HEED_I64;
  case lang::ElementType::F16:
    return HEED_F16;
  case lang::ElementType::BF16:
    return HEED_BF16;
  case lang::ElementType::F32:
    return HEED_F32;
  }
  llvm_unreachable("unknown element type");
}

/// The value of HEED_EXTENT_* or a number.
static int64_t extentOf(const lang::Extent &extent) {
  switch (extent.kind) {
  case lang::Extent::Kind::Number:
    return extent.number;
  case lang::Extent::Kind::Any:
    return HEED_EXTENT_ANY;
  case lang::Extent::Kind::Symbol:
    return HEED_EXTENT_B - static_cast<int64_t>(extent.size);
  }
  llvm_unreachable("unknown extent");
}
static_assert(HEED_EXTENT_B - static_cast<int64_t>(lang::Size::Dv) == HEED_EXTENT_DV,
              "lang::Size and HEED_EXTENT_* list the sizes in the same order");

void KernelTable::emit(llvm::Module &module, const lang::Variant &variant, StringRef name,
                       const CompileOptions &options) const {
  TableBuilder b(module);
  llvm::SmallVector<Constant *> params, entries;
  for (const lang::Parameter &parameter : variant.params) {
    if (parameter.isConst)
      continue;
    llvm::SmallVector<Constant *> extents;
    for (const lang::Extent &extent : parameter.extents)
      extents.push_back(b.i64(extentOf(extent)));
    int64_t value = 0;
    if (parameter.value)
      value = parameter.value->type == lang::ValueType::F32
                  ? llvm::bit_cast<int64_t>(parameter.value->real)
                  : parameter.value->integer;
    params.push_back(
        b.structure({b.string(parameter.name), b.i32(dtypeOf(parameter.elementType)),
                     b.i32(parameter.isTensor() ? parameter.rank() : -1), b.array(extents),
                     b.i32(parameter.value.has_value()), b.i64(value)}));
  }
  for (const Code &code : codes) {
    auto function = [&](StringRef kind) {
      return b.function(name + kind + "." + code.target.name);
    };
    entries.push_back(b.structure(
        {b.string(code.target.name), b.i64(code.target.cpuBits), b.i32(code.blockQ),
         b.i32(code.blockKv), b.i64(code.scratchBytes), b.i64(code.packedBytesPerBlock),
         function("_prepare"), function("_tile"), function("_cost"), b.i32(code.usesLists)}));
  }
  auto moduleOf = [&](const GPUTarget &target, StringRef ptx, StringRef cubin) {
    return b.structure({b.string(target.name), b.i32(target.capability), b.i32(target.isExact),
                        b.string(ptx), cubin.empty() ? b.null() : b.string(cubin),
                        b.i64(ptx.size()), b.i64(cubin.size())});
  };
  llvm::SmallVector<Constant *> gpuEntries;
  for (const GPUCode &code : gpuCodes) {
    llvm::SmallVector<Constant *> maps;
    for (auto [operand, rows, columns] : code.maps)
      maps.push_back(b.structure({b.i32(operand), b.i32(rows), b.i32(columns)}));
    Constant *classify = code.classifyThreads ? b.string(code.entry + "_classify") : b.null();
    gpuEntries.push_back(
        b.structure({moduleOf(code.target, code.ptx, code.cubin),
                     b.string(code.entry),
                     b.i32(code.blockQ),
                     b.i32(code.blockKv),
                     b.i32(code.numThreads),
                     b.i32(code.sharedBytes),
                     b.i32(code.blocksPerSM),
                     b.i32(code.blocksPerTile),
                     b.i32(code.needsAligned),
                     b.i32(code.maps.size()),
                     b.array(maps),
                     classify,
                     b.i32(code.classifyThreads),
                     b.i32(code.listsPerBatch),
                     b.i32(code.listsPerHead),
                     code.summaryWords ? b.string(code.entry + "_summarise") : b.null(),
                     b.i32(code.summariseThreads),
                     b.i32(code.summaryWords),
                     b.i32(code.summariesPerBatch),
                     b.i32(code.summariesPerHead),
                     b.i64(code.minKeys)}));
  }
  llvm::SmallVector<Constant *> maskEntries;
  for (const MaskCode &code : maskCodes) {
    auto function = [&](StringRef kind) {
      return b.function(name + kind + "." + code.target.name);
    };
    maskEntries.push_back(
        b.structure({b.string(code.target.name), b.i64(code.target.cpuBits), b.i32(code.usesBatch),
                     b.i32(code.usesHead), function("_classify"), function("_count")}));
  }
  llvm::SmallVector<Constant *> gpuMaskEntries;
  for (const GPUMaskCode &code : gpuMaskCodes) {
    llvm::SmallVector<Constant *> fields;
    for (const GPUMaskCode::Kernel &kernel : code.kernels)
      fields.push_back(
          b.structure({moduleOf(code.target, kernel.ptx, kernel.cubin), b.string(kernel.entry)}));
    fields.append({b.i32(code.warps), b.i32(code.usesBatch), b.i32(code.usesHead)});
    gpuMaskEntries.push_back(b.structure(fields));
  }
  int64_t valueDim = options.valueHeadDim ? options.valueHeadDim : options.headDim;
  Constant *kernel = b.structure(
      {b.i32(HEED_ABI_VERSION), b.i32(params.size()), b.string(name), b.i32(options.dtype),
       b.i32(options.headDim), b.i32(valueDim), b.i32(entries.size()), b.array(params),
       b.array(entries), b.i32(gpuEntries.size()), b.array(gpuEntries), b.i32(maskEntries.size()),
       b.array(maskEntries), b.i32(gpuMaskEntries.size()), b.array(gpuMaskEntries)});
  new llvm::GlobalVariable(module, kernel->getType(), /*isConstant=*/true,
                           llvm::GlobalValue::ExternalLinkage, kernel, (name + "_kernel").str());
}
