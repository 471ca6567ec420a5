//===-- Hot.c - Calls of flex_attention that were seen before -----*- C -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The Python module heed._hot: what flex_attention tries first. It is a shortcut, not a second
// implementation: what a call means is known to python/heed alone, which traces, compiles, checks
// and reports. A call that has succeeded there leaves a plan (python/heed/hot.py):
//
//     site of the call, the code of both mods  ->  fetch, kernel, device, options, ...
//
// `call` describes the arrays, looks for a plan that fits, has `fetch` (heed.tracing made it) check
// that the mods are still what was traced and read what they capture, makes the output, and calls
// the runtime, which checks every shape. Block lists that were given are read anew at each call,
// for anybody may have written into them. It answers with the result, or
//
//     None            no plan fits: Python makes the call, and leaves one
//     NotImplemented  the call is not plain, or was refused: Python makes it, or says what is wrong
//
// `run` is the same for calls of a Kernel, which need no plan: it says whether it has made the
// call.
//
// Nothing is written before the runtime has accepted a call, so making it again is safe. Functions
// here return false or NULL where the call is not for them. They may have set an exception then,
// which `call` drops. Only Python's limited API is used, so one build is good for Python 3.10 and
// later. There the GIL guards all state: builds of Python without GIL load no such modules.
//
//===----------------------------------------------------------------------===//

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include "heed-c/Runtime.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { maxParams = 32 };

// Of dlpack.h 1.2: how torch describes a tensor, and the stream to use, without Python objects.
typedef struct {
  void *data;
  int32_t deviceType, deviceId, rank;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byteOffset;
} DLTensor;

typedef struct {
  uint32_t major, minor;
  void *previous, *allocate, *export, *import;
  int (*describe)(PyObject *tensor, DLTensor *result);
  int (*currentStream)(int deviceType, int32_t device, void **stream);
} DLExchange;

enum { deviceCPU = 1, deviceCUDA = 2 };

// What NumPy's C ABI says of arrays; strides count bytes.
typedef struct {
  PyObject_HEAD char *data;
  int rank;
  Py_ssize_t *shape, *strides;
  PyObject *base, *dtype;
  int flags;
} NumPyArray;

enum { numpyAligned = 0x0100, numpyWritable = 0x0400 };

// What Python has told this module by `use`; NULL until then.
static PyObject *plans; // dict: an int for each site to a tuple of plans
static PyObject *runAddress, *launchAddress, *blockMaskType, *auxRequestType, *auxOutputType;
static PyObject *arrayType, *int8, *dtypeCodes; // NumPy's; dict: dtype to heed_dtype, or None
static PyObject *maskOf;                        // given_lists.mask_of
static PyObject *tensorType, *parameterType, *exchangeCapsule;
static PyObject *emptyLike, *emptyStrided, *numThreads, *isGradEnabled; // torch's functions
static PyObject *isAnyAutocastEnabled, *autocast;                       // torch's, arrays.autocast
static PyObject *numDispatchModes;                                      // torch's
static const DLExchange *exchange;

/// A plan is a tuple of these.
enum { planFetch, planKernel, planDevice, planOptions, planIsTorch, planDType, planF32 };

/// Attributes.
static PyObject *code, *class, *given, *derivation, *shapeName, *maskMod, *requiresGrad, *isNeg;
static PyObject *listsName, *blockSizeName, *seqLengths, *theirMaskMod;
static PyObject *listNames[4]; // counts and indices of partial blocks, then of full ones

//===----------------------------------------------------------------------===//
// Arrays
//===----------------------------------------------------------------------===//

static bool isOf(PyObject *type, PyObject *object) { return (PyObject *)Py_TYPE(object) == type; }

// By heed_dtype: DLPack's code << 8 | bits, and bytes.
static const int dlTypes[] = {0x608, 0x008, 0x020, 0x040, 0x210, 0x410, 0x220};
static const int64_t sizes[] = {1, 1, 4, 8, 2, 2, 4};

/// Describes an array of just NumPy's and torch's own types: others may behave in any way. The
/// device is -1 for the CPU.
static bool describe(PyObject *array, heed_tensor *result, int32_t *device) {
  int dtype = 0;
  if (isOf(tensorType, array) || isOf(parameterType, array)) {
    DLTensor tensor;
    if (exchange->describe(array, &tensor) != 0 || tensor.rank > HEED_MAX_RANK ||
        (tensor.rank > 0 && !tensor.strides) ||
        (tensor.deviceType != deviceCPU && tensor.deviceType != deviceCUDA))
      return false;
    *device = tensor.deviceType == deviceCPU ? -1 : tensor.deviceId;
    result->data = (char *)tensor.data + tensor.byteOffset;
    result->rank = tensor.rank;
    while (dlTypes[dtype] != (tensor.code << 8 | tensor.bits) || tensor.lanes != 1)
      if (++dtype > HEED_F32)
        return false;
    for (int i = 0; i < tensor.rank; ++i) {
      result->shape[i] = tensor.shape[i];
      result->strides[i] = tensor.strides[i];
    }
  } else if (isOf(arrayType, array)) {
    const NumPyArray *tensor = (const NumPyArray *)array;
    PyObject *known = PyDict_GetItemWithError(dtypeCodes, tensor->dtype);
    if (!known || known == Py_None || tensor->rank > HEED_MAX_RANK ||
        !(tensor->flags & numpyAligned))
      return false;
    dtype = (int)PyLong_AsLong(known);
    *device = -1;
    result->data = tensor->data;
    result->rank = tensor->rank;
    for (int i = 0; i < tensor->rank; ++i) {
      if (tensor->strides[i] % sizes[dtype] != 0)
        return false;
      result->shape[i] = tensor->shape[i];
      result->strides[i] = tensor->strides[i] / sizes[dtype];
    }
  } else {
    return false;
  }
  result->dtype = (heed_dtype)dtype;
  return true;
}

/// Whether `result`, a new reference or NULL, is the bool that is expected. Drops the reference.
static bool isBool(PyObject *result, PyObject *expected) {
  Py_XDECREF(result);
  return result == expected;
}

/// Whether no gradient is asked of an array that `describe` accepted.
static bool needsNoGradient(PyObject *array) {
  if (isOf(arrayType, array))
    return true;
  PyObject *requires = PyObject_GetAttr(array, requiresGrad);
  return isBool(requires, Py_False) ||
         (requires && isBool(PyObject_CallNoArgs(isGradEnabled), Py_False));
}

/// Whether the elements of an array that `describe` accepted are what its memory says.
static bool isPlain(PyObject *array) {
  return isOf(arrayType, array) || isBool(PyObject_CallMethodObjArgs(array, isNeg, NULL), Py_False);
}

/// Whether operands are taken as they are: torch.autocast may want them in another type.
static bool isWithoutAutocast(PyObject *const *operands) {
  if (isOf(arrayType, operands[0]) || !isAnyAutocastEnabled ||
      isBool(PyObject_CallNoArgs(isAnyAutocastEnabled), Py_False))
    return true;
  return isBool(PyObject_CallFunctionObjArgs(autocast, operands[0], operands[1], operands[2], NULL),
                Py_None);
}

/// Whether no mode of torch's wants to see what is called, or to do it in its own way.
static bool isUnwatched(PyObject *array) {
  if (isOf(arrayType, array) || !numDispatchModes)
    return true;
  PyObject *number = PyObject_CallNoArgs(numDispatchModes);
  bool isZero = number && PyLong_AsLong(number) == 0;
  Py_XDECREF(number);
  return isZero;
}

/// The tuple of numbers * factor.
static PyObject *tupleOf(const int64_t *numbers, int count, int64_t factor) {
  PyObject *tuple = PyTuple_New(count);
  for (int i = 0; tuple && i < count; ++i)
    PyTuple_SetItem(tuple, i, PyLong_FromLongLong(numbers[i] * factor));
  return tuple;
}

/// NumPy's dtype of an array. Several may be one heed_dtype: uint16 holds bf16, too.
static PyObject *dtypeOf(PyObject *array) { return ((const NumPyArray *)array)->dtype; }

/// A new array where those of the plan are. `wanted`: its shape, strides and type; that of the
/// output is the query's.
static PyObject *newArray(PyObject *plan, bool isTorch, int kind, PyObject *queryArray,
                          const heed_tensor *wanted) {
  PyObject *dtype =
      !isTorch && kind == planDType ? dtypeOf(queryArray) : PyTuple_GetItem(plan, kind);
  PyObject *args = NULL, *array = NULL;
  PyObject *named = isTorch ? PyDict_Copy(dtype) : NULL; // torch's modes may change it
  PyObject *shape = tupleOf(wanted->shape, wanted->rank, 1);
  PyObject *strides = tupleOf(wanted->strides, wanted->rank, isTorch ? 1 : sizes[wanted->dtype]);
  if (shape && strides)
    args = isTorch ? PyTuple_Pack(2, shape, strides)
                   : Py_BuildValue("OOOiO", shape, dtype, Py_None, 0, strides);
  if (args && (named || !isTorch))
    array = PyObject_Call(isTorch ? emptyStrided : arrayType, args, named);
  Py_XDECREF(named);
  Py_XDECREF(args);
  Py_XDECREF(shape);
  Py_XDECREF(strides);
  return array;
}

//===----------------------------------------------------------------------===//
// The steps of a call
//===----------------------------------------------------------------------===//

/// What becomes of the arguments.
typedef struct {
  heed_call call;
  void *data[6];
  heed_value params[maxParams];
  heed_tensor tensors[maxParams];
  int32_t device;
} Packed;

/// Query, key and value: of one device, library and type. The runtime checks their shapes, but does
/// not insist on enable_gqa, and on equal batches of key and value; results of empty arrays, and
/// copies of those without unit stride, are for Python to make.
static bool describeOperands(PyObject *const *arrays, bool enableGQA, Packed *packed) {
  heed_tensor *operands[] = {&packed->call.query, &packed->call.key, &packed->call.value};
  const heed_tensor *query = operands[0], *key = operands[1], *value = operands[2];
  for (int i = 0; i < 3; ++i) {
    heed_tensor *operand = operands[i];
    int32_t device;
    if (!describe(arrays[i], operand, &device) || !needsNoGradient(arrays[i]) ||
        !isPlain(arrays[i]))
      return false;
    if (i == 0)
      packed->device = device;
    if (device != packed->device || isOf(arrayType, arrays[i]) != isOf(arrayType, arrays[0]) ||
        operand->dtype != query->dtype || operand->rank != 4 || operand->strides[3] != 1)
      return false;
    if (isOf(arrayType, arrays[i]) &&
        PyObject_RichCompareBool(dtypeOf(arrays[0]), dtypeOf(arrays[i]), Py_EQ) != 1)
      return false;
    for (int axis = 0; axis < 4; ++axis)
      if (operand->shape[axis] == 0)
        return false;
    packed->data[i] = operand->data;
  }
  return memcmp(key->shape, value->shape, 3 * sizeof(int64_t)) == 0 &&
         (query->shape[1] == key->shape[1] || enableGQA);
}

/// Whether they still are what was packed: a mod may have run any code when it was asked for what
/// it captures.
static bool areAsPacked(PyObject *const *arrays, const Packed *packed) {
  const heed_tensor *operands[] = {&packed->call.query, &packed->call.key, &packed->call.value};
  for (int i = 0; i < 3; ++i) {
    heed_tensor now;
    int32_t device;
    if (!describe(arrays[i], &now, &device) || now.data != packed->data[i] || now.rank != 4 ||
        memcmp(now.shape, operands[i]->shape, 4 * sizeof(int64_t)) != 0 ||
        memcmp(now.strides, operands[i]->strides, 4 * sizeof(int64_t)) != 0)
      return false;
  }
  return true;
}

/// Whether a BlockMask is ours and was derived from its mask_mod.
static bool isDerived(PyObject *blockMask) {
  return isOf(blockMaskType, blockMask) && isBool(PyObject_GetAttr(blockMask, given), Py_False);
}

/// The mask_mod of a BlockMask that was derived from it, for these lengths.
static PyObject *maskModOf(PyObject *blockMask, const heed_call *call) {
  const int64_t wanted[] = {call->query.shape[0], call->query.shape[1], call->query.shape[2],
                            call->key.shape[2]};
  PyObject *derived = PyObject_GetAttr(blockMask, derivation);
  PyObject *shape = derived ? PyObject_GetAttr(derived, shapeName) : NULL;
  bool fits = shape && PyTuple_Size(shape) == 4;
  for (int i = 0; fits && i < 4; ++i) {
    long long extent = PyLong_AsLongLong(PyTuple_GetItem(shape, i));
    fits = extent == wanted[i] || (i < 2 && extent == 1);
  }
  Py_XDECREF(derived);
  Py_XDECREF(shape);
  return fits ? PyObject_GetAttr(blockMask, maskMod) : NULL;
}

//===----------------------------------------------------------------------===//
// Masks of given lists, on the CPU
//===----------------------------------------------------------------------===//

/// A pair of lists: (B, H, rows) and (B, H, rows, any number).
typedef struct {
  heed_tensor counts, indices;
  int32_t rank; // that indices had, when batch dims on the left were missing
} Lists;

/// Whether they are a pair of int32, with at most two batch dims. Those that are missing become 1.
static bool describeLists(PyObject *counts, PyObject *indices, Lists *lists) {
  heed_tensor *both[] = {&lists->counts, &lists->indices};
  PyObject *arrays[] = {counts, indices};
  for (int i = 0; i < 2; ++i) {
    int32_t device;
    heed_tensor *list = both[i];
    if (!describe(arrays[i], list, &device) || device >= 0 || list->dtype != HEED_I32 ||
        !isPlain(arrays[i]) || list->rank < 1 + i || list->rank > 3 + i ||
        (i == 1 && list->rank != lists->rank + 1))
      return false;
    lists->rank = list->rank;
    for (; list->rank < 3 + i; ++list->rank) {
      memmove(list->shape + 1, list->shape, (size_t)list->rank * sizeof(int64_t));
      memmove(list->strides + 1, list->strides, (size_t)list->rank * sizeof(int64_t));
      list->shape[0] = 1;
      list->strides[0] = 0;
    }
  }
  return memcmp(lists->counts.shape, lists->indices.shape, 3 * sizeof(int64_t)) == 0;
}

/// Writes `kind` for the blocks that are listed; entries that name no block are ignored.
static void fillKinds(const Lists *lists, int8_t kind, int64_t columns, int8_t *kinds) {
  const heed_tensor counts = lists->counts, indices = lists->indices; // not what `kinds` may alias
  const int64_t *shape = indices.shape;
  for (int64_t b = 0; b < shape[0]; ++b)
    for (int64_t h = 0; h < shape[1]; ++h)
      for (int64_t row = 0; row < shape[2]; ++row, kinds += columns) {
        const int64_t place[] = {b, h, row};
        const int32_t *entry = indices.data, *counted = counts.data;
        for (int i = 0; i < 3; ++i) {
          entry += place[i] * indices.strides[i];
          counted += place[i] * counts.strides[i];
        }
        int64_t count = *counted < shape[3] ? *counted : shape[3], step = indices.strides[3];
        for (; count > 0; --count, entry += step) {
          int32_t column = *entry; // once: others may write
          if (column >= 0 && column < columns)
            kinds[column] = kind;
        }
      }
}

/// The kinds of the blocks that lists name, as BlockMask.block_kinds: a new array.
static PyObject *kindsOf(PyObject *const *given, int64_t minColumns) {
  Lists lists[2];
  const int64_t *shape = lists[0].indices.shape;
  bool hasFull = given[2] != Py_None;
  if (!describeLists(given[0], given[1], &lists[0]) ||
      (hasFull &&
       (!describeLists(given[2], given[3], &lists[1]) || lists[0].rank != lists[1].rank ||
        memcmp(shape, lists[1].indices.shape, 3 * sizeof(int64_t)) != 0)))
    return NULL;
  long long columns = shape[3] > minColumns ? shape[3] : minColumns;
  PyObject *kinds = PyObject_CallFunction(arrayType, "(LLLL)O", (long long)shape[0],
                                          (long long)shape[1], (long long)shape[2], columns, int8);
  if (kinds) {
    int8_t *data = (int8_t *)((const NumPyArray *)kinds)->data;
    PyThreadState *state = PyEval_SaveThread();
    memset(data, 0, (size_t)(shape[0] * shape[1] * shape[2] * columns));
    for (int i = 0; i < 1 + hasFull; ++i)
      fillKinds(&lists[i], (int8_t)(1 + i), columns, data);
    PyEval_RestoreThread(state);
  }
  return kinds;
}

/// The integers of a tuple of two.
static bool pairOf(PyObject *tuple, int64_t pair[2]) {
  if (!tuple || !PyTuple_CheckExact(tuple) || PyTuple_Size(tuple) != 2)
    return false;
  for (int i = 0; i < 2; ++i)
    pair[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
  return !PyErr_Occurred();
}

/// The mask of a BlockMask of lists, ours or torch's, as given_lists.mask_for makes it; for these
/// lengths, and without the checks that HEED_DEBUG asks for.
static PyObject *maskOfLists(PyObject *blockMask, const Packed *packed) {
  const int64_t *query = packed->call.query.shape, *key = packed->call.key.shape;
  const char *debug = getenv("HEED_DEBUG");
  if (packed->device >= 0 || !maskOf || (debug && *debug && strcmp(debug, "0") != 0))
    return NULL;
  bool isOurs = isOf(blockMaskType, blockMask);
  if (!isOurs && PyObject_IsInstance(blockMask, blockMaskType) != 0) // it may be a derived one
    return NULL;
  PyObject *dict = isOurs ? PyObject_GetAttr(blockMask, listsName) : NULL;
  PyObject *lists[4] = {NULL, NULL, NULL, NULL}, *kinds = NULL, *mask = NULL;
  PyObject *lengths = PyObject_GetAttr(blockMask, seqLengths);
  PyObject *blockSize = lengths ? PyObject_GetAttr(blockMask, blockSizeName) : NULL;
  PyObject *mod = blockSize ? PyObject_GetAttr(blockMask, isOurs ? maskMod : theirMaskMod) : NULL;
  int64_t length[2], block[2];
  if (!mod || !pairOf(lengths, length) || !pairOf(blockSize, block) || length[0] != query[2] ||
      length[1] != key[2] || block[0] < 1 || block[1] < 1)
    goto done;
  for (int i = 0; i < 4; ++i) {
    lists[i] = dict ? Py_XNewRef(PyDict_GetItemWithError(dict, listNames[i]))
                    : PyObject_GetAttr(blockMask, listNames[i]);
    if (!lists[i])
      goto done;
  }
  if ((kinds = kindsOf(lists, (key[2] - 1) / block[1] + 1))) {
    const Py_ssize_t *shape = ((const NumPyArray *)kinds)->shape;
    if ((shape[0] == 1 || shape[0] == query[0]) && (shape[1] == 1 || shape[1] == query[1]) &&
        shape[2] >= (query[2] - 1) / block[0] + 1)
      mask = PyObject_CallFunctionObjArgs(maskOf, kinds, blockSize, mod, NULL);
  }

done:
  for (int i = 0; i < 4; ++i)
    Py_XDECREF(lists[i]);
  Py_XDECREF(kinds);
  Py_XDECREF(mod);
  Py_XDECREF(blockSize);
  Py_XDECREF(lengths);
  Py_XDECREF(dict);
  return mask;
}

//===----------------------------------------------------------------------===//
// More steps of a call
//===----------------------------------------------------------------------===//

/// Stands for the code of a mod, or its class. Where plans are found, not what makes them right:
/// that is for `fetch` to say.
static uint64_t identityOf(PyObject *mod) {
  if (mod == Py_None)
    return 0;
  PyObject *found = PyObject_GetAttr(mod, code);
  if (!found && PyErr_ExceptionMatches(PyExc_AttributeError)) {
    PyErr_Clear();
    found = PyObject_GetAttr(mod, class);
  }
  Py_XDECREF(found);
  return (uintptr_t)found;
}

static PyObject *siteOf(PyObject *score, PyObject *mask) {
  uint64_t first = identityOf(score), second = PyErr_Occurred() ? 0 : identityOf(mask);
  return PyErr_Occurred() ? NULL
                          : PyLong_FromUnsignedLongLong(first * 0x9E3779B97F4A7C15u + second);
}

static const heed_kernel *kernelOf(PyObject *plan) {
  return PyLong_AsVoidPtr(PyTuple_GetItem(plan, planKernel));
}

static bool fits(PyObject *plan, const Packed *packed, bool isTorch, PyObject *options) {
  const heed_kernel *kernel = kernelOf(plan);
  return kernel->dtype == packed->call.query.dtype &&
         kernel->head_dim == packed->call.query.shape[3] &&
         kernel->value_head_dim == packed->call.value.shape[3] &&
         PyLong_AsLong(PyTuple_GetItem(plan, planDevice)) == packed->device &&
         PyTuple_GetItem(plan, planIsTorch) == (isTorch ? Py_True : Py_False) &&
         PyUnicode_Compare(PyTuple_GetItem(plan, planOptions), options) == 0;
}

static bool packValues(const heed_kernel *kernel, PyObject *values, Packed *packed) {
  int32_t numTensors = 0;
  if (kernel->num_params > maxParams || PyList_Size(values) != kernel->num_params)
    return false;
  for (int32_t i = 0; i < kernel->num_params; ++i) {
    const heed_param *param = &kernel->params[i];
    heed_value *word = &packed->params[i];
    PyObject *value = PyList_GetItem(values, i);
    heed_tensor *tensor = &packed->tensors[numTensors];
    int32_t device;
    if (param->rank >= 0) {
      if (!describe(value, tensor, &device) || device != packed->device ||
          tensor->dtype != param->dtype || !needsNoGradient(value) || !isPlain(value))
        return false;
      word->i = numTensors++;
    } else if (param->dtype >= HEED_F16) {
      word->f = PyFloat_AsDouble(value);
    } else {
      word->i = PyLong_AsLongLong(value);
    }
    if (PyErr_Occurred())
      return false;
  }
  return true;
}

static bool packNumbers(PyObject *scale, bool isTorch, bool onCPU, heed_call *call) {
  call->scale = NAN;
  call->num_threads = 0;
  if (scale != Py_None) {
    if (!PyFloat_Check(scale) && PyObject_HasAttrString(scale, "requires_grad"))
      return false;
    call->scale = PyFloat_AsDouble(scale);
    if (!isfinite(call->scale) || PyErr_Occurred())
      return false;
  }
  if (isTorch && onCPU) { // who limits torch's threads limits Heed's
    PyObject *threads = PyObject_CallNoArgs(numThreads);
    call->num_threads = threads ? (int32_t)PyLong_AsLong(threads) : 0;
    Py_XDECREF(threads);
  }
  return !PyErr_Occurred();
}

/// Shape and strides of the output: dense, its axes in memory in the order of query's.
static bool layOutOutput(const heed_call *call, heed_tensor *output) {
  const int64_t *strides = call->query.strides;
  if (strides[0] < 0 || strides[1] < 0 || strides[2] < 0)
    return false;
  int order[] = {0, 1, 2};
  for (int i = 1; i < 3; ++i)
    for (int j = i; j > 0 && strides[order[j]] > strides[order[j - 1]]; --j) {
      int inner = order[j - 1];
      order[j - 1] = order[j];
      order[j] = inner;
    }
  *output = call->query;
  int64_t step = output->shape[3] = call->value.shape[3];
  for (int i = 2; i >= 0; --i) {
    output->strides[order[i]] = step;
    if (__builtin_mul_overflow(step, output->shape[order[i]], &step))
      return false;
  }
  return true;
}

/// Makes the output (0), LSE (1) or largest scores (2).
static PyObject *makeResult(int which, PyObject *plan, bool isTorch, PyObject *queryArray,
                            Packed *packed) {
  heed_call *call = &packed->call;
  const heed_tensor *query = &call->query;
  heed_tensor *result = which == 0 ? &call->output : which == 1 ? &call->lse : &call->max_scores;
  PyObject *array;
  if (which > 0) {
    const int64_t *shape = query->shape;
    *result = (heed_tensor){
        NULL, HEED_F32, 3, {shape[0], shape[1], shape[2]}, {shape[1] * shape[2], shape[2], 1}};
    array = newArray(plan, isTorch, planF32, queryArray, result);
  } else if (!layOutOutput(call, result)) {
    return NULL;
  } else if (isTorch && result->shape[3] == query->shape[3] &&
             memcmp(result->strides, query->strides, 4 * sizeof(int64_t)) == 0) {
    array = PyObject_CallFunctionObjArgs(emptyLike, queryArray, NULL); // the faster way
  } else {
    array = newArray(plan, isTorch, planDType, queryArray, result);
  }
  // Under one of torch's modes it may be anything.
  heed_tensor wanted = *result;
  int32_t device;
  if (array && (!describe(array, result, &device) || device != packed->device ||
                result->dtype != wanted.dtype || result->rank != wanted.rank ||
                memcmp(result->shape, wanted.shape, (size_t)wanted.rank * sizeof(int64_t)) != 0))
    Py_CLEAR(array);
  if (array)
    packed->data[3 + which] = result->data;
  return array;
}

static bool start(const heed_kernel *kernel, const Packed *packed) {
  heed_status (*run)(const heed_kernel *, const heed_call *, void *const *, const heed_value *,
                     const heed_tensor *) = PyLong_AsVoidPtr(runAddress);
  heed_status (*launch)(const heed_kernel *, const heed_call *, void *const *, const heed_value *,
                        const heed_tensor *, void *, int32_t) = PyLong_AsVoidPtr(launchAddress);
  void *stream = NULL;
  if (packed->device >= 0 && exchange->currentStream(deviceCUDA, packed->device, &stream) != 0)
    return false;
  const heed_call *call = &packed->call;
  PyThreadState *state = PyEval_SaveThread();
  heed_status status = packed->device < 0
                           ? run(kernel, call, packed->data, packed->params, packed->tensors)
                           : launch(kernel, call, packed->data, packed->params, packed->tensors,
                                    stream, packed->device);
  PyEval_RestoreThread(state);
  return status == HEED_OK;
}

//===----------------------------------------------------------------------===//
// The module
//===----------------------------------------------------------------------===//

/// The result; or NULL, where `isMissing` says that it is only for want of a plan.
static PyObject *attempt(PyObject *const *args, bool *isMissing) {
  PyObject *query = args[0], *score = args[3], *blockMask = args[4], *mask = args[5];
  PyObject *aux = args[9], *options = args[10];
  PyObject *ownMask = NULL, *site = NULL, *known = NULL, *plan = NULL, *values = NULL;
  PyObject *results[3] = {NULL, NULL, NULL}, *answer = NULL;
  bool isTorch = !isOf(arrayType, query);
  Packed packed;
  memset(&packed, 0, offsetof(Packed, params));

  if (args[8] != Py_False || !(aux == Py_None || isOf(auxRequestType, aux)) ||
      !PyUnicode_CheckExact(options) || !isWithoutAutocast(args) || !isUnwatched(args[0]) ||
      !describeOperands(args, args[7] == Py_True, &packed))
    return NULL;
  if (blockMask != Py_None) {
    if (mask != Py_None)
      return NULL;
    mask = ownMask =
        isDerived(blockMask) ? maskModOf(blockMask, &packed.call) : maskOfLists(blockMask, &packed);
    if (!mask)
      return NULL;
  }

  if (!(site = siteOf(score, mask)))
    goto done;
  known = Py_XNewRef(PyDict_GetItemWithError(plans, site)); // `fetch` may run code that drops it
  for (Py_ssize_t i = 0, end = known ? PyTuple_Size(known) : 0; i < end && !values; ++i) {
    plan = PyTuple_GetItem(known, i);
    if (!fits(plan, &packed, isTorch, options))
      continue;
    values = PyObject_CallFunctionObjArgs(PyTuple_GetItem(plan, planFetch), score, mask, NULL);
    if (!values)
      goto done;
    if (values == Py_None) // the mods are not what was traced
      Py_CLEAR(values);
  }
  if (!values) {
    *isMissing = true;
    goto done;
  }

  const heed_kernel *kernel = kernelOf(plan);
  if (!packValues(kernel, values, &packed) ||
      !packNumbers(args[6], isTorch, packed.device < 0, &packed.call))
    goto done;
  for (int i = 0; i < 3; ++i) {
    PyObject *wants = i == 0 ? Py_True : aux == Py_None ? Py_False : PyTuple_GetItem(aux, i - 1);
    if (wants == Py_True)
      results[i] = makeResult(i, plan, isTorch, query, &packed);
    if (!results[i] && wants != Py_False)
      goto done;
  }
  if (!areAsPacked(args, &packed) || !start(kernel, &packed))
    goto done;
  if (aux == Py_None) {
    answer = Py_NewRef(results[0]);
  } else {
    PyObject *rest = PyObject_CallFunctionObjArgs(auxOutputType, results[1] ? results[1] : Py_None,
                                                  results[2] ? results[2] : Py_None, NULL);
    answer = rest ? Py_BuildValue("ON", results[0], rest) : NULL;
  }

done:
  for (int i = 0; i < 3; ++i)
    Py_XDECREF(results[i]);
  Py_XDECREF(values);
  Py_XDECREF(known);
  Py_XDECREF(site);
  Py_XDECREF(ownMask);
  return answer;
}

/// call(query, key, value, score_mod, block_mask, mask_mod, scale, enable_gqa, return_lse,
/// return_aux, options)
static PyObject *call(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  bool isMissing = false;
  if (count != 11 || !plans)
    return PyErr_Format(PyExc_TypeError, "expected 11 arguments, and `use` before");
  PyObject *answer = attempt(args, &isMissing);
  if (answer)
    return answer;
  if (!PyErr_Occurred())
    return Py_NewRef(isMissing ? Py_None : Py_NotImplemented);
  if (!PyErr_ExceptionMatches(PyExc_Exception)) // KeyboardInterrupt, for one
    return NULL;
  PyErr_Clear();
  return Py_NewRef(Py_NotImplemented);
}

/// Whether an array of just NumPy's or torch's own type may be written into.
static bool isWritable(PyObject *array) {
  return !isOf(arrayType, array) || (((const NumPyArray *)array)->flags & numpyWritable);
}

/// run(kernel, query, key, value, output, lse or None, values, scale, threads): Whether the kernel
/// at an address has computed output and lse. If not, nothing has happened.
static PyObject *runKernel(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != 9 || !PyList_CheckExact(args[6]))
    return PyErr_Format(PyExc_TypeError, "expected 9 arguments, the seventh a list");
  const heed_kernel *kernel = PyLong_AsVoidPtr(args[0]);
  Packed packed;
  memset(&packed, 0, offsetof(Packed, params));
  heed_call *call = &packed.call;
  heed_tensor *results[] = {&call->output, &call->lse};
  bool isMade = kernel && PyLong_CheckExact(args[8]) &&
                packNumbers(args[7], false, false, call) && // first: it may run any code
                describeOperands(args + 1, true, &packed) &&
                call->query.dtype == (heed_dtype)kernel->dtype;
  for (int i = 0; isMade && i < 2; ++i) {
    PyObject *array = args[4 + i];
    int32_t device;
    if (i == 1 && array == Py_None)
      continue;
    isMade = describe(array, results[i], &device) && device == packed.device &&
             results[i]->dtype == (i == 0 ? call->query.dtype : HEED_F32) && isWritable(array) &&
             needsNoGradient(array) && isPlain(array);
    packed.data[3 + i] = results[i]->data;
  }
  if (isMade && packValues(kernel, args[6], &packed)) {
    long threads = PyLong_AsLong(args[8]);
    call->num_threads = (int32_t)threads;
    isMade =
        !PyErr_Occurred() && threads >= 0 && threads == call->num_threads && start(kernel, &packed);
  } else {
    isMade = false;
  }
  if (PyErr_Occurred()) {
    if (!PyErr_ExceptionMatches(PyExc_Exception)) // KeyboardInterrupt, for one
      return NULL;
    PyErr_Clear();
  }
  return Py_NewRef(isMade ? Py_True : Py_False);
}

/// site(score_mod, mask_mod): the key of their plans.
static PyObject *site(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *score, *mask;
  return PyArg_ParseTuple(args, "OO", &score, &mask) ? siteOf(score, mask) : NULL;
}

/// describe(array): (address, dtype, device, shape, strides) as calls see them, or None.
static PyObject *describeForPython(PyObject *module, PyObject *array) {
  (void)module;
  heed_tensor found;
  int32_t device;
  if (!describe(array, &found, &device)) {
    PyErr_Clear();
    return Py_NewRef(Py_None);
  }
  return Py_BuildValue("KiiNN", (unsigned long long)(uintptr_t)found.data, (int)found.dtype,
                       (int)device, tupleOf(found.shape, found.rank, 1),
                       tupleOf(found.strides, found.rank, 1));
}

/// use(dict): what the dict holds of these, until the process ends. It stops at an exchange API of
/// another version, so that there are no tensors.
static PyObject *use(PyObject *module, PyObject *given) {
  (void)module;
  static const struct {
    const char *name;
    PyObject **place;
  } all[] = {{"plans", &plans},
             {"run", &runAddress},
             {"launch", &launchAddress},
             {"BlockMask", &blockMaskType},
             {"AuxRequest", &auxRequestType},
             {"AuxOutput", &auxOutputType},
             {"ndarray", &arrayType},
             {"int8", &int8},
             {"mask_of", &maskOf},
             {"dtype_codes", &dtypeCodes},
             {"empty_like", &emptyLike},
             {"empty_strided", &emptyStrided},
             {"get_num_threads", &numThreads},
             {"is_grad_enabled", &isGradEnabled},
             {"is_any_autocast_enabled", &isAnyAutocastEnabled},
             {"autocast", &autocast},
             {"num_dispatch_modes", &numDispatchModes},
             {"exchange", &exchangeCapsule},
             {"Parameter", &parameterType},
             {"Tensor", &tensorType}};
  for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); ++i) {
    PyObject *found = PyDict_GetItemString(given, all[i].name);
    if (!found)
      continue;
    if (all[i].place == &exchangeCapsule) {
      const DLExchange *offered = PyCapsule_GetPointer(found, "dlpack_exchange_api");
      if (!offered) {
        PyErr_Clear();
        break;
      }
      if (offered->major != 1 || !offered->describe)
        break;
      exchange = offered;
    }
    *all[i].place = Py_NewRef(found);
  }
  return Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, NULL},
    {"run", (PyCFunction)(void (*)(void))runKernel, METH_FASTCALL, NULL},
    {"site", site, METH_VARARGS, NULL},
    {"describe", describeForPython, METH_O, NULL},
    {"use", use, METH_O, NULL},
    {NULL, NULL, 0, NULL}};

PyMODINIT_FUNC PyInit__hot(void) {
  static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "heed._hot",
                                          .m_size = -1, .m_methods = methods};
  PyObject *module = PyModule_Create(&definition);
  code = PyUnicode_InternFromString("__code__");
  class = PyUnicode_InternFromString("__class__");
  given = PyUnicode_InternFromString("_given");
  derivation = PyUnicode_InternFromString("_derivation");
  shapeName = PyUnicode_InternFromString("shape");
  maskMod = PyUnicode_InternFromString("_mask_mod");
  requiresGrad = PyUnicode_InternFromString("requires_grad");
  isNeg = PyUnicode_InternFromString("is_neg");
  listsName = PyUnicode_InternFromString("_lists");
  blockSizeName = PyUnicode_InternFromString("BLOCK_SIZE");
  seqLengths = PyUnicode_InternFromString("seq_lengths");
  theirMaskMod = PyUnicode_InternFromString("mask_mod");
  static const char *const names[] = {"kv_num_blocks", "kv_indices", "full_kv_num_blocks",
                                      "full_kv_indices"};
  for (int i = 0; i < 4; ++i)
    listNames[i] = PyUnicode_InternFromString(names[i]);
  // Python compares these with a kernel's, and with its own view of heed_call.
  if (module && PyModule_AddIntConstant(module, "ABI_VERSION", HEED_ABI_VERSION) == 0)
    PyModule_AddIntConstant(module, "CALL_BYTES", sizeof(heed_call));
  return module;
}
