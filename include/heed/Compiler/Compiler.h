//===-- Compiler.h - From a checked variant to an object file --*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The driver behind heedc, the demo's tools and, later, Python: it runs the levels
// one after the other, for one or several CPU levels, and puts the results into one
// object file.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_COMPILER_COMPILER_H
#define HEED_COMPILER_COMPILER_H

#include "heed-c/Runtime.h"
#include "heed/Language/Program.h"
#include "heed/Target/CPU/CPUTarget.h"
#include "heed/Target/NVIDIA/GPUTarget.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "llvm/Support/Error.h"

#include <memory>
#include <string>
#include <vector>

namespace llvm {
class raw_ostream;
} // namespace llvm

namespace heed {

/// What is compiled in; everything else about a call is known at run time.
struct CompileOptions {
  std::vector<CPUTarget> targets;    // of one architecture, weakest first
  std::vector<GPUTarget> gpuTargets; // at least one target in all
  GPUScheduleOverrides gpuSchedule;  // its `walk` counts for CPUs as well
  heed_dtype dtype = HEED_F32;       // f16, bf16 or f32
  int64_t headDim = 0;               // 1 to 576
  int64_t valueHeadDim = 0;          // 0: as headDim
  std::string symbol;                // of the kernel, empty: defaultSymbol(); with one variant only
};

/// What the compiler can stop at.
enum class EmitKind { Attn, Tile, LLVM, Asm, PTX, Cubin, Object, Classifier };

/// Seconds that each phase took, in order.
using PhaseTimes = std::vector<std::pair<std::string, double>>;

/// Fills the targets of `options` from names of CPU levels and GPU architectures, each once. An
/// error names the known ones.
llvm::Error lookupTargets(llvm::ArrayRef<llvm::StringRef> names, CompileOptions &options);

/// "bf16" and so on; nullopt for a word that names no type of query, key and value.
std::optional<heed_dtype> parseDType(llvm::StringRef word);
llvm::StringRef spelling(heed_dtype dtype);

/// A type of query, key and value.
mlir::Type toMLIRType(mlir::MLIRContext &context, heed_dtype dtype);

/// The C name of a variant's kernel: variant_dtype_dN, or variant_dtype_dNxM where the value head
/// dim differs.
std::string defaultSymbol(const lang::Variant &variant, const CompileOptions &options);

/// Whether `name` can be the C name of a kernel.
bool isCIdentifier(llvm::StringRef name);

/// Whether C or C++ has another meaning for an identifier: keywords, and macros that a generated
/// header includes. Parameters of such names have an underscore behind theirs there.
bool isReservedInC(llvm::StringRef name);

/// Makes a context with all dialects of Heed's levels. Its diagnostics go to stderr.
std::unique_ptr<mlir::MLIRContext> makeContext();

/// The variants as a module of attn.variant and one function with an attn.forward each, simplified.
llvm::Expected<mlir::OwningOpRef<mlir::ModuleOp>>
buildAttnModule(mlir::MLIRContext &context, llvm::ArrayRef<const lang::Variant *> variants,
                const CompileOptions &options);

/// Compiles variants and writes what `kind` asks for. Errors are reported as diagnostics of the
/// context or returned.
llvm::Error compile(mlir::MLIRContext &context, llvm::ArrayRef<const lang::Variant *> variants,
                    const CompileOptions &options, EmitKind kind, llvm::raw_pwrite_stream &os,
                    PhaseTimes *times = nullptr);

/// Writes the C header of an object that compile() makes.
void writeHeader(llvm::ArrayRef<const lang::Variant *> variants, const CompileOptions &options,
                 llvm::StringRef fileName, llvm::raw_ostream &os);

/// Links an object into a shared library with the system's linker.
llvm::Error linkShared(llvm::StringRef objectPath, llvm::StringRef outputPath);

} // namespace heed

#endif // HEED_COMPILER_COMPILER_H
