//===-- Checker.cpp - Declarations, parameters and the two phases *- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Checker.h"

#include "heed/Language/Numbers.h"
#include "heed/Language/Parser.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/SaveAndRestore.h"
#include "llvm/Support/SourceMgr.h"

#include <cmath>

using namespace llvm;
using namespace heed::lang;
using namespace heed::lang::ast;

Checker::Checker(Diagnostics &diags, ModuleSet &modules, const CheckOptions &options,
                 CheckedProgram &program)
    : diags(diags), modules(modules), options(options), program(program), programBuilder(program),
      scratchBuilder(scratch), builder(&scratchBuilder), usedDefines(options.defines.size()) {}

//===----------------------------------------------------------------------===//
// Messages and bounds
//===----------------------------------------------------------------------===//

void Checker::error(SMLoc loc, const Twine &message) {
  diags.error(loc, message);
  if (!expanding)
    return;
  unsigned shown = 0;
  for (Frame *use = frame; use && use->callLoc.isValid() && shown != 4; use = use->caller, ++shown)
    diags.note(use->callLoc, "in the " + use->calleeWhat + " '" + use->spec.name + "' used here");
}

bool Checker::charge(unsigned more) {
  cost += more;
  if (cost > maxExpansion && !exhausted) {
    error(expansionLoc, "this expands to more than " + Twine(maxExpansion) + " operations");
    exhausted = true;
  }
  return !exhausted;
}

Value Checker::inFrame(Module &module, ReturnSpec spec, SMLoc callLoc, StringRef calleeWhat,
                       function_ref<Value()> body) {
  Frame inner{&module, spec, frame, callLoc, calleeWhat, llvm::DenseMap<StringRef, unsigned>()};
  size_t scope = variables.size(), mark = trail.size();
  Value result;
  {
    SaveAndRestore<Frame *> current(frame, &inner);
    result = body();
  }
  variables.erase(variables.begin() + scope, variables.end());
  trail.erase(trail.begin() + mark, trail.end());
  return result;
}

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

bool Checker::checkScalarType(ElementType type, SMLoc loc) {
  StringRef instead;
  if (type == ElementType::I8)
    instead = "i32";
  else if (type == ElementType::F16 || type == ElementType::BF16)
    instead = "f32";
  else
    return true;
  error(loc, "a scalar cannot be " + spelling(type) + "; use " + instead);
  return false;
}

void Checker::checkParams(ArrayRef<ParamDecl> params, const Decl *decl) {
  const ParamDecl *withDefault = nullptr;
  for (const ParamDecl &param : params) {
    bool isTensor = !param.type.extents.empty();
    if (isTensor && param.isConst)
      error(param.name.loc, "a tensor cannot be 'const'");
    if (isTensor && param.defaultValue)
      error(param.defaultValue->loc, "a tensor cannot have a default");
    if (!isTensor && checkScalarType(param.type.element, param.type.loc) && param.defaultValue)
      evalConstant(param.defaultValue, param, *frame->module);
    if (!decl)
      continue;
    if (param.defaultValue) {
      withDefault = &param;
    } else if (withDefault) {
      error(param.name.loc, "'" + param.name.name + "' needs a default, because it follows '" +
                                withDefault->name.name + "', which has one");
    }
  }
}

Value Checker::fromParameter(const ParamDecl &param, unsigned number) {
  Value value;
  if (param.type.extents.empty()) {
    value.kind = Value::Kind::Scalar;
    value.type = valueTypeOf(param.type.element);
    return expanding ? scalar(builder->param(value.type, number), false)
                     : opaque(value, param.isConst);
  }
  value.kind = Value::Kind::Tensor;
  value.tensor = new ((expanding ? program : scratch).arena().Allocate<TensorRef>())
      TensorRef{param.name.name, param.name.loc, number, param.type.element, param.type.extents};
  return value;
}

/// A default: a scalar made from literals, converted to the parameter's type.
std::optional<ScalarConstant> Checker::evalConstant(const Expr *expr, const ParamDecl &param,
                                                    Module &module) {
  SaveAndRestore<bool> fold(expanding, true);
  SaveAndRestore<bool> noCalls(inDefault, true);
  SaveAndRestore<Builder *> aside(builder, &scratchBuilder);
  Value value = inFrame(module, {}, SMLoc(), "", [&] { return evalOperand(expr); });
  if (value.isError())
    return std::nullopt;
  if (!value.known()) {
    error(expr->loc, "the default of '" + param.name.name + "' must be a constant");
    return std::nullopt;
  }
  ValueType type = valueTypeOf(param.type.element);
  if (!converts(value.type, type)) {
    error(expr->loc, "the default of '" + param.name.name + "' must be " + spelling(type) +
                         ", but this is " + describe(value));
    return std::nullopt;
  }
  return convert(value, type).known()->constant;
}

static std::optional<ScalarConstant> parseScalar(StringRef text, ValueType type) {
  ScalarConstant constant;
  constant.type = type;
  if (type == ValueType::Bool) {
    if (text != "true" && text != "false")
      return std::nullopt;
    constant.integer = text == "true";
  } else if (type == ValueType::F32) {
    std::optional<float> number = parseF32(text);
    if (!number || (std::isinf(*number) && !text.ends_with("inf")))
      return std::nullopt;
    constant.real = *number;
  } else {
    std::optional<int64_t> number = parseInteger(text);
    if (!number || (type == ValueType::I32 && !isInt<32>(*number)))
      return std::nullopt;
    constant.integer = *number;
  }
  return constant;
}

/// The value that -D gives, if any.
std::optional<ScalarConstant> Checker::defineFor(const VariantDecl &variant, const ParamDecl &param,
                                                 bool &found) {
  std::string qualified = (variant.name.name + "." + param.name.name).str();
  const std::string *text = nullptr;
  bool isExact = false;
  for (auto [i, define] : enumerate(options.defines)) {
    bool exact = define.first == qualified;
    bool isOther = !options.definesOf.empty() && options.definesOf != variant.name.name;
    if (!exact && (isOther || define.first != param.name.name))
      continue;
    usedDefines[i] = true;
    if (exact || !isExact) { // the last one, as with C compilers
      text = &define.second;
      isExact = exact;
    }
  }
  found = text;
  if (!text)
    return std::nullopt;
  ValueType type = valueTypeOf(param.type.element);
  std::optional<ScalarConstant> value = parseScalar(*text, type);
  if (!value)
    error(param.name.loc, "'" + *text + "', given for '" + param.name.name + "', is not " +
                              (type == ValueType::Bool ? "'true' or 'false'"
                                                       : "a number of type " + spelling(type)));
  return value;
}

/// Reports a -D that no parameter takes.
void Checker::undefinable(StringRef name) {
  std::vector<std::string> known;
  bool hasVariant = options.definesOf.empty();
  for (const VariantDecl *variant : modules.main().tree->variants) {
    bool isNamed = options.definesOf == variant->name.name;
    hasVariant |= isNamed;
    for (const ParamDecl &param : variant->params)
      if (param.type.extents.empty() && name.contains('.'))
        known.push_back((variant->name.name + "." + param.name.name).str());
      else if (param.type.extents.empty() && (isNamed || options.definesOf.empty()))
        known.push_back(param.name.name.str());
  }
  if (!hasVariant)
    return; // which the caller finds out
  std::vector<StringRef> names(known.begin(), known.end());
  diags.fileError(modules.main().path, 0,
                  (options.definesOf.empty() ? "no variant has a"
                                             : "variant '" + options.definesOf + "' has no") +
                      " scalar parameter '" + name + "' to define" + didYouMean(name, names));
}

//===----------------------------------------------------------------------===//
// Bodies of declarations
//===----------------------------------------------------------------------===//

bool Checker::checkCoordinates(const Mod &mod) {
  if (!mod.body)
    return true;
  bool isMask = mod.kind == ModKind::Mask;
  size_t expected = isMask ? 4 : 5;
  if (mod.coordinates.size() == expected)
    return true;
  error(mod.loc, Twine("a ") + (isMask ? "mask" : "score") + " has the coordinates " +
                     (isMask ? "(b, h, q, kv)" : "(s, b, h, q, kv)") + ", but " +
                     Twine(mod.coordinates.size()) +
                     (mod.coordinates.size() == 1 ? " name is given" : " names are given"));
  return false;
}

SmallVector<Value, 5> Checker::coordinateValues(ModKind kind) {
  SmallVector<Value, 5> values;
  for (Coordinate which :
       {Coordinate::Score, Coordinate::B, Coordinate::H, Coordinate::Q, Coordinate::KV})
    if (kind == ModKind::Score || which != Coordinate::Score)
      values.push_back(scalar(builder->coordinate(which), false));
  return values;
}

Value Checker::evalMod(const Mod &mod, ArrayRef<Value> coordinates, SMLoc loc) {
  if (mod.composition) {
    SmallVector<Value, 5> passed(coordinates);
    return evalComposition(mod.composition, mod.kind, passed);
  }
  if (mod.coordinates.size() != coordinates.size())
    return {}; // reported
  for (auto [ident, value] : zip_equal(mod.coordinates, coordinates))
    declare(ident, value);
  return evalBody(mod.body);
}

Value Checker::evalDecl(const Decl &decl, ArrayRef<Value> coordinates) {
  return decl.kind == DeclKind::Fn ? evalBody(decl.body)
                                   : evalMod(decl.mod, coordinates, decl.name.loc);
}

/// Checks a function, mask or score the first time it is asked for.
const Checker::Signature &Checker::signatureOf(DeclRef ref) {
  const Decl &decl = *ref.decl;
  if (auto it = signatures.find(&decl); it != signatures.end())
    return it->second;
  signatures[&decl].state = State::InProgress;

  Value known; // the shape, where it does not depend on the body
  known.kind = Value::Kind::Scalar;
  ReturnSpec spec;
  spec.name = decl.name.name;
  if (decl.kind == DeclKind::Mod) {
    bool isMask = decl.mod.kind == ModKind::Mask;
    spec.kind = isMask ? ReturnSpec::Kind::Mask : ReturnSpec::Kind::Score;
    known.type = isMask ? ValueType::Bool : ValueType::F32;
  } else if (decl.returnType) {
    spec.kind = ReturnSpec::Kind::Declared;
    known.type = spec.type = valueTypeOf(decl.returnType->element);
  } else {
    known.kind = Value::Kind::Error;
  }
  signatures[&decl].result = opaque(known);

  Value result = inFrame(*ref.module, spec, SMLoc(), decl.what(), [&] {
    checkParams(decl.params, &decl);
    if (decl.returnType && !decl.returnType->extents.empty())
      error(decl.returnType->loc, "a function cannot return a tensor");
    else if (decl.returnType)
      checkScalarType(decl.returnType->element, decl.returnType->loc);
    for (auto [i, param] : enumerate(decl.params))
      declare(param.name, fromParameter(param, i));
    if (decl.kind == DeclKind::Mod && !checkCoordinates(decl.mod))
      return Value();
    return evalDecl(decl, decl.kind == DeclKind::Mod ? coordinateValues(decl.mod.kind)
                                                     : SmallVector<Value, 5>());
  });
  Signature &signature = signatures[&decl];
  signature.state = result.isError() ? State::Bad : State::Good;
  if (known.isError())
    signature.result = result;
  return signature;
}

//===----------------------------------------------------------------------===//
// Variants
//===----------------------------------------------------------------------===//

static ArrayRef<const Mod *> modsOf(const VariantDecl &variant, const Mod *(&storage)[2]) {
  storage[0] = variant.score;
  storage[1] = variant.mask;
  return storage;
}

void Checker::checkVariant(const VariantDecl *variant, Module &module) {
  inFrame(module, {}, SMLoc(), "", [&] {
    checkParams(variant->params, nullptr);
    for (auto [i, param] : enumerate(variant->params)) {
      declare(param.name, fromParameter(param, i));
      bool found = false;
      if (&module != &modules.main() || !param.type.extents.empty())
        continue;
      defineFor(*variant, param, found);
      if (param.isConst && !param.defaultValue && !found)
        error(param.name.loc, "'" + param.name.name +
                                  "' is 'const' and has no value; give it a default or pass -D " +
                                  param.name.name + "=VALUE");
    }
    return Value();
  });
  const Mod *storage[2];
  for (const Mod *mod : modsOf(*variant, storage)) {
    if (!mod || !checkCoordinates(*mod))
      continue;
    ReturnSpec spec;
    spec.kind = mod->kind == ModKind::Mask ? ReturnSpec::Kind::Mask : ReturnSpec::Kind::Score;
    inFrame(module, spec, SMLoc(), "", [&] {
      for (auto [i, param] : enumerate(variant->params))
        declare(param.name, fromParameter(param, i));
      return evalMod(*mod, coordinateValues(mod->kind), mod->loc);
    });
  }
}

void Checker::expandVariant(const VariantDecl *decl, Module &module) {
  BumpPtrAllocator &arena = program.arena();
  Variant &variant = program.variants.emplace_back();
  variant.name = decl->name.name.copy(arena);
  variant.loc = modules.locate(decl->name.loc);
  for (const ParamDecl &paramDecl : decl->params) {
    Parameter &param = variant.params.emplace_back();
    param.name = paramDecl.name.name.copy(arena);
    param.loc = modules.locate(paramDecl.name.loc);
    param.elementType = paramDecl.type.element;
    param.extents = ArrayRef<Extent>(paramDecl.type.extents).copy(arena);
    param.isConst = paramDecl.isConst;
    if (param.isTensor())
      continue;
    if (paramDecl.defaultValue)
      param.value = evalConstant(paramDecl.defaultValue, paramDecl, module);
    bool found;
    if (auto value = defineFor(*decl, paramDecl, found)) {
      param.value = value;
      param.isConst = true;
    }
  }

  const Mod *storage[2];
  for (const Mod *mod : modsOf(*decl, storage)) {
    if (!mod || halted())
      continue;
    cost = 0;
    expansionLoc = mod->loc;
    builder->start();
    ReturnSpec spec;
    spec.kind = mod->kind == ModKind::Mask ? ReturnSpec::Kind::Mask : ReturnSpec::Kind::Score;
    Value result = inFrame(module, spec, SMLoc(), "", [&] {
      for (auto [i, paramDecl, param] : enumerate(decl->params, variant.params)) {
        at(paramDecl.name.loc);
        declare(paramDecl.name, param.isConst ? scalar(builder->constant(*param.value), true)
                                              : fromParameter(paramDecl, i));
      }
      at(mod->loc);
      return evalMod(*mod, coordinateValues(mod->kind), mod->loc);
    });
    if (result.isError() || halted())
      continue;
    (mod->kind == ModKind::Mask ? variant.mask : variant.score) =
        builder->finish(result.node(), modules.locate(mod->loc));
  }
}

bool Checker::run() {
  for (const auto &module : modules.all()) {
    for (const Decl *decl : module->tree->decls) {
      // The standard library is checked where it is used, and by its tests.
      if (module->isStandard || halted())
        break;
      cost = 0;
      expansionLoc = decl->name.loc;
      signatureOf({decl, module.get()});
    }
    for (const VariantDecl *variant : module->tree->variants) {
      if (halted())
        break;
      cost = 0;
      expansionLoc = variant->name.loc;
      checkVariant(variant, *module);
    }
  }
  for (auto [define, used] : zip_equal(options.defines, usedDefines))
    if (!used)
      undefinable(define.first);
  if (diags.hasErrors())
    return false;

  expanding = true;
  builder = &programBuilder;
  for (const VariantDecl *variant : modules.main().tree->variants)
    if (!halted())
      expandVariant(variant, modules.main());
  return !diags.hasErrors();
}

//===----------------------------------------------------------------------===//
// Entry points
//===----------------------------------------------------------------------===//

static std::unique_ptr<CheckedProgram> checkProgram(SourceMgr &sourceMgr,
                                                    const CheckOptions &options,
                                                    function_ref<bool(ModuleSet &)> load) {
  Diagnostics diags(sourceMgr);
  auto program = std::make_unique<CheckedProgram>();
  ModuleSet modules(diags, options, program->arena());
  if (!load(modules))
    return nullptr;
  Checker checker(diags, modules, options, *program);
  if (!checker.run())
    return nullptr;
  for (const auto &module : modules.all())
    if (!module->isStandard)
      program->files.push_back(module->path);
  return program;
}

std::unique_ptr<CheckedProgram> heed::lang::checkFile(StringRef path, SourceMgr &sourceMgr,
                                                      const CheckOptions &options) {
  return checkProgram(sourceMgr, options, [&](ModuleSet &modules) { return modules.load(path); });
}

std::unique_ptr<CheckedProgram> heed::lang::checkSource(StringRef text, StringRef name,
                                                        SourceMgr &sourceMgr,
                                                        const CheckOptions &options) {
  return checkProgram(sourceMgr, options,
                      [&](ModuleSet &modules) { return modules.loadText(text, name); });
}
