//===-- Header.cpp - C headers of compiled kernels ------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Compiler/Compiler.h"
#include "heed/Language/Numbers.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>
#include <limits>

using namespace heed;
using llvm::StringRef;

/// "f32[Hq, 32]" or "f32".
static std::string describe(const lang::Parameter &parameter) {
  std::string text = lang::spelling(parameter.elementType).str();
  if (!parameter.isTensor())
    return text;
  text += "[";
  for (auto [i, extent] : llvm::enumerate(parameter.extents)) {
    text += i ? ", " : "";
    if (extent.kind == lang::Extent::Kind::Number)
      text += std::to_string(extent.number);
    else
      text += extent.kind == lang::Extent::Kind::Any ? "?" : lang::spelling(extent.size).str();
  }
  return text + "]";
}

static bool isFloat(const lang::Parameter &parameter) {
  return parameter.elementType == lang::ElementType::F16 ||
         parameter.elementType == lang::ElementType::BF16 ||
         parameter.elementType == lang::ElementType::F32;
}

static StringRef cType(const lang::Parameter &parameter) {
  if (parameter.isTensor())
    return "const heed_tensor *";
  if (isFloat(parameter))
    return "double ";
  return "int64_t ";
}

bool heed::isReservedInC(StringRef name) {
  static const llvm::StringSet<> words = {
      // C11 and C++17
      "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break",
      "case", "catch", "char", "char16_t", "char32_t", "class", "compl", "const", "const_cast",
      "constexpr", "continue", "decltype", "default", "delete", "do", "double", "dynamic_cast",
      "else", "enum", "explicit", "export", "extern", "false", "float", "for", "friend", "goto",
      "if", "inline", "int", "long", "mutable", "namespace", "new", "noexcept", "not", "not_eq",
      "nullptr", "operator", "or", "or_eq", "private", "protected", "public", "register",
      "reinterpret_cast", "restrict", "return", "short", "signed", "sizeof", "static",
      "static_assert", "static_cast", "struct", "switch", "template", "this", "thread_local",
      "throw", "true", "try", "typedef", "typeid", "typename", "union", "unsigned", "using",
      "virtual", "void", "volatile", "wchar_t", "while", "xor", "xor_eq",
      // later ones, and what compilers add
      "char8_t", "co_await", "co_return", "co_yield", "concept", "constinit", "consteval",
      "requires", "typeof", "linux", "unix",
      // macros of what the header includes
      "NULL", "NAN", "INFINITY", "HUGE_VAL", "HUGE_VALF", "HUGE_VALL", "MATH_ERRNO",
      "MATH_ERREXCEPT", "math_errhandling", "SIZE_MAX", "WCHAR_MIN", "WCHAR_MAX", "WINT_MIN",
      "WINT_MAX", "SIG_ATOMIC_MIN", "SIG_ATOMIC_MAX", "PTRDIFF_MIN", "PTRDIFF_MAX", "OVERFLOW",
      "UNDERFLOW", "DOMAIN", "SING", "PLOSS", "TLOSS", "HUGE", "MAXFLOAT",
      // and of others that a program may include before
      "errno", "EOF", "I", "complex", "imaginary", "BUFSIZ", "CHAR_BIT",
      // types and functions that the header uses, and what lies beside them
      "int8_t", "int16_t", "int32_t", "int64_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t",
      "size_t", "memset",
      // names of heed-c/Runtime.h
      "heed_block_lists", "heed_block_run", "heed_block_runs", "heed_block_runs_free",
      "heed_box_class_fn", "heed_box_count_fn", "heed_call", "heed_class_matrix", "heed_classify",
      "heed_code", "heed_cost_fn", "heed_cpu_features", "heed_dense_tensor", "heed_dtype",
      "heed_get_num_threads", "heed_gpu_capability", "heed_gpu_code", "heed_gpu_count",
      "heed_gpu_map", "heed_gpu_mask_code", "heed_gpu_mask_kernel", "heed_gpu_module",
      "heed_gpu_unload", "heed_kernel", "heed_last_error", "heed_launch", "heed_launch_classify",
      "heed_launch_fill", "heed_launch_list", "heed_list_blocks", "heed_launch_packed",
      "heed_mask_code", "heed_mask_question", "heed_parallel_for", "heed_parallel_for_fn",
      "heed_param", "heed_prepare_fn", "heed_run", "heed_run_packed", "heed_select_code",
      "heed_select_gpu_code", "heed_set_num_threads", "heed_set_parallel_for", "heed_status",
      "heed_status_name", "heed_task_fn", "heed_tensor", "heed_tile_fn", "heed_value"};
  // Names with two underscores, or one before a capital, are the implementation's.
  return words.contains(name) || name.contains("__") ||
         (name.size() > 1 && name[0] == '_' && llvm::isUpper(name[1])) || name.starts_with("FP_") ||
         name.starts_with("M_") || name.starts_with("HEED_") || name.starts_with("FLT_") ||
         name.starts_with("DBL_") || name.starts_with("LDBL_") || name.ends_with("_MAX") ||
         name.ends_with("_MIN") || (name.contains("INT") && name.ends_with("_C"));
}

/// The parameters' names as members of a struct: what C reserves is another name there.
static std::vector<std::string> memberNames(llvm::ArrayRef<const lang::Parameter *> params) {
  llvm::StringSet<> taken;
  for (const lang::Parameter *parameter : params)
    taken.insert(parameter->name);
  std::vector<std::string> names;
  for (const lang::Parameter *parameter : params) {
    std::string name = parameter->name.str();
    if (isReservedInC(name)) {
      bool isOfCompiler = name[0] == '_' || StringRef(name).contains("__");
      std::string stem = (isOfCompiler ? "param" : name) + "_";
      name = stem;
      for (int number = 2; !taken.insert(name).second; ++number)
        name = stem + std::to_string(number);
    }
    names.push_back(name);
  }
  return names;
}

static std::string literal(const lang::ScalarConstant &value) {
  if (value.type != lang::ValueType::F32)
    return value.integer == std::numeric_limits<int64_t>::min() ? "(-9223372036854775807 - 1)"
                                                                : std::to_string(value.integer);
  if (std::isinf(value.real))
    return value.real < 0 ? "-INFINITY" : "INFINITY";
  std::string text = lang::formatF32(value.real);
  return StringRef(text).contains_insensitive('e') || StringRef(text).contains('.') ? text
                                                                                    : text + ".0";
}

namespace {
/// One way to call a kernel: on the CPU's threads or on a GPU's stream.
struct Entry {
  StringRef suffix;   // of the function's name
  StringRef argument; // the last one, as C declares it
  std::string comment;
};
} // namespace

static void writeEntry(const Entry &entry, StringRef name,
                       llvm::ArrayRef<const lang::Parameter *> params,
                       llvm::ArrayRef<std::string> members, llvm::raw_ostream &os) {
  os << entry.comment << "static inline heed_status " << name << entry.suffix
     << "(const heed_tensor *query, const heed_tensor *key,\n"
     << "    const heed_tensor *value, heed_tensor *output, heed_tensor *lse, double scale,\n"
     << "    ";
  if (!params.empty())
    os << "const " << name << "_params *params, ";
  os << entry.argument << ") {\n"
     << "  heed_call call;\n";
  if (!params.empty())
    os << "  heed_value values[" << params.size() << "];\n";
  // What is NULL stays empty, which the runtime reports by name.
  os << "  memset(&call, 0, sizeof call);\n";
  for (StringRef operand : {"query", "key", "value", "output", "lse"})
    os << "  if (" << operand << ")\n    call." << operand << " = *" << operand << ";\n";
  os << "  call.scale = scale;\n";
  if (!params.empty()) {
    os << "  if (params) {\n";
    for (auto [i, parameter] : llvm::enumerate(params))
      os << "    values[" << i << "]."
         << (parameter->isTensor() ? "tensor"
             : isFloat(*parameter) ? "f"
                                   : "i")
         << " = params->" << members[i] << ";\n";
    os << "    call.params = values;\n  }\n";
  }
  if (entry.suffix.empty())
    os << "  call.num_threads = threads;\n"
       << "  return heed_run(&" << name << "_kernel, &call);\n}\n\n";
  else
    os << "  return heed_launch(&" << name << "_kernel, &call, stream);\n}\n\n";
}

static void writeKernel(const lang::Variant &variant, const CompileOptions &options,
                        llvm::raw_ostream &os) {
  std::string name = defaultSymbol(variant, options);
  StringRef type = spelling(options.dtype);
  int64_t valueDim = options.valueHeadDim ? options.valueHeadDim : options.headDim;
  llvm::SmallVector<const lang::Parameter *> params;
  for (const lang::Parameter &parameter : variant.params)
    if (!parameter.isConst)
      params.push_back(&parameter);
  std::vector<std::string> members = memberNames(params);
  llvm::SmallVector<StringRef> targets;
  for (const CPUTarget &target : options.targets)
    targets.push_back(target.name);
  for (const GPUTarget &target : options.gpuTargets)
    targets.push_back(target.name);

  os << "/* Variant '" << variant.name << "' (" << variant.loc.file << ":" << variant.loc.line
     << "), compiled for " << llvm::join(targets, ", ") << ". */\nextern const heed_kernel " << name
     << "_kernel;\n\n";
  if (!params.empty()) {
    os << "/* The parameters of variant '" << variant.name << "'. */\ntypedef struct " << name
       << "_params {\n";
    for (auto [parameter, member] : llvm::zip(params, members)) {
      os << "  " << cType(*parameter) << member << "; /* " << describe(*parameter);
      if (parameter->value)
        os << ", default " << literal(*parameter->value);
      os << " */\n";
    }
    os << "} " << name << "_params;\n\n"
       << "/* The defaults; what has none is NULL or 0 and has to be set. */\n"
       << "static inline " << name << "_params " << name << "_default_params(void) {\n  " << name
       << "_params params;\n";
    for (auto [parameter, member] : llvm::zip(params, members))
      os << "  params." << member << " = "
         << (parameter->value        ? literal(*parameter->value)
             : parameter->isTensor() ? "NULL"
                                     : "0")
         << ";\n";
    os << "  return params;\n}\n\n";
  }
  std::string operands;
  llvm::raw_string_ostream(operands)
      << " *   query   (B, Hq, Sq, " << options.headDim << ")     " << type << "\n"
      << " *   key     (Bkv, Hkv, Skv, " << options.headDim << ")  " << type
      << "; Bkv is B or 1, Hq a multiple of Hkv\n"
      << " *   value   (Bkv, Hkv, Skv, " << valueDim << ")  " << type << "\n"
      << " *   output  (B, Hq, Sq, " << valueDim << ")     " << type << ", written\n"
      << " *   lse     (B, Hq, Sq)          f32, written: log-sum-exp of each row; NULL: not "
         "wanted\n"
      << " *   scale   factor of query x key; NAN: 1/sqrt(" << options.headDim << ")\n";
  std::string first = "/* Attention forward of variant '" + variant.name.str() + "'";
  std::string layout = " * The last stride of query, key, value and output is 1, all others are "
                       "free. Returns HEED_OK, or a status\n"
                       " * with heed_last_error() saying which argument is wrong; then nothing "
                       "was written";
  // An object without code for CPUs has no entry for them: it could only fail.
  if (!options.targets.empty())
    writeEntry({"", "int32_t threads",
                first + ".\n" + operands +
                    " *   threads number of threads; 0: heed_get_num_threads()\n" + layout +
                    ". */\n"},
               name, params, members, os);
  if (!options.gpuTargets.empty())
    writeEntry({"_launch", "void *stream",
                first + " on an NVIDIA GPU: returns when it is queued.\n" + operands +
                    " *   stream  a CUstream or cudaStream_t of the GPU that holds the tensors, "
                    "captured ones too; NULL:\n"
                    " *           the legacy default stream. May be captured into a CUDA graph\n" +
                    layout + ". */\n"},
               name, params, members, os);
}

void heed::writeHeader(llvm::ArrayRef<const lang::Variant *> variants,
                       const CompileOptions &options, StringRef fileName, llvm::raw_ostream &os) {
  std::string guard = "HEED_GENERATED_";
  for (char c : fileName)
    guard += llvm::isAlnum(c) ? llvm::toUpper(c) : '_';
  os << "/* " << fileName << " - generated by heedc; link the object with -lheed_runtime. */\n"
     << "#ifndef " << guard << "\n#define " << guard << "\n\n"
     << "#include \"heed-c/Runtime.h\"\n\n#include <math.h>\n#include <string.h>\n\n"
     << "#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n";
  for (const lang::Variant *variant : variants)
    writeKernel(*variant, options, os);
  os << "#ifdef __cplusplus\n}\n#endif\n\n#endif /* " << guard << " */\n";
}
