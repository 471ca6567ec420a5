//===-- Hot.c - Calls of flex_attention that were seen before -----*- C -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The Python module heed._hot: what flex_attention tries first. It is a shortcut, not a second
// implementation. What a call means is known to python/heed alone, which traces, compiles, checks
// and reports. When a call has succeeded there, it leaves a plan here:
//
//     site of the call (code of both mods)  ->  fetch, kernel, types, head dims, device, options
//
// `call` looks for a plan that fits, has `fetch` (made by heed.tracing) check that the mods are
// still what was traced and read what they capture, describes the arrays, makes the output, and
// calls the runtime, which checks every shape. It answers with the result, or
//
//     None            no plan fits: Python makes the call, and leaves one
//     NotImplemented  the call is not plain, or was refused: Python makes it, or says what is wrong
//
// Nothing is written before the runtime has accepted the call, so making it again is safe. Only
// Python's limited API is used: one build is good for Python 3.10 and later. There the GIL guards
// all state (builds of Python without GIL do not load such modules).
//
//===----------------------------------------------------------------------===//

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include "heed-c/Runtime.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
  maxParams = 32,
  maxPlansOfSite = 16, // they are tried one after the other
  maxSites = 1024
};

//===----------------------------------------------------------------------===//
// State: what Python has told this module
//===----------------------------------------------------------------------===//

typedef heed_status (*RunFn)(const heed_kernel *, const heed_call *, void *const *,
                             const heed_value *, const heed_tensor *);
typedef heed_status (*LaunchFn)(const heed_kernel *, const heed_call *, void *const *,
                                const heed_value *, const heed_tensor *, void *, int32_t);

// Of dlpack.h, 1.2 and later: how torch describes a tensor without making Python objects.
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

enum { deviceCPU = 1, deviceCUDA = 2 }; // DLDeviceType

// What NumPy's C ABI says of arrays.
typedef struct {
  PyObject_HEAD char *data;
  int rank;
  Py_ssize_t *shape, *strides; // strides in bytes
  PyObject *base, *dtype;
  int flags;
} NumPyArray;

enum { numpyAligned = 0x0100 };

static struct {
  RunFn run;
  LaunchFn launch;
  PyTypeObject *blockMask, *auxRequest, *auxOutput;
  PyTypeObject *ndarray;
  PyObject *dtypeCodes; // dict: NumPy's dtype to heed_dtype or None
  // NULL until there is torch.
  PyTypeObject *tensor, *parameter;
  const DLExchange *exchange;
  PyObject *emptyLike, *emptyStrided, *numThreads, *isGradEnabled;
} heed;

/// dict: an int for each site to a tuple of its plans, the newest first. A plan is a capsule.
static PyObject *plans;

static PyObject *nameCode, *nameClass, *nameGiven, *nameDerivation, *nameShape, *nameMaskMod,
    *nameRequiresGrad, *nameIsNeg;

//===----------------------------------------------------------------------===//
// Plans
//===----------------------------------------------------------------------===//

typedef struct {
  PyObject *fetch;       // (score_mod, mask_mod) to a list of values, or None
  PyObject *owner;       // of the kernel
  PyObject *options;     // str
  PyObject *dtype, *f32; // NumPy's dtypes, or for torch the keywords of empty_strided
  const heed_kernel *kernel;
  int32_t device; // -1: the CPU
  bool isTorch;
} Plan;

static const char *const planName = "heed.plan";

static void freePlan(PyObject *capsule) {
  Plan *plan = PyCapsule_GetPointer(capsule, planName);
  Py_XDECREF(plan->fetch);
  Py_XDECREF(plan->owner);
  Py_XDECREF(plan->options);
  Py_XDECREF(plan->dtype);
  Py_XDECREF(plan->f32);
  PyMem_Free(plan);
}

/// Of a mod, what identifies its site: its code, or its class. Not what makes a plan right; that is
/// for `fetch` to say.
static bool codeOf(PyObject *mod, uint64_t *identity) {
  PyObject *code = NULL;
  if (mod != Py_None && !(code = PyObject_GetAttr(mod, nameCode))) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError))
      return false;
    PyErr_Clear();
    if (!(code = PyObject_GetAttr(mod, nameClass)))
      return false;
  }
  *identity = (uintptr_t)code;
  Py_XDECREF(code);
  return true;
}

static PyObject *siteOf(PyObject *scoreMod, PyObject *maskMod) {
  uint64_t score, mask;
  if (!codeOf(scoreMod, &score) || !codeOf(maskMod, &mask))
    return NULL;
  return PyLong_FromUnsignedLongLong(score * 0x9E3779B97F4A7C15u + mask);
}

/// remember(score_mod, mask_mod, fetch, kernel's address, its owner, device, options, is_torch,
/// dtype, f32)
static PyObject *remember(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *scoreMod, *maskMod, *address;
  Plan found = {0};
  int isTorch;
  if (!PyArg_ParseTuple(args, "OOOO!OiUpOO", &scoreMod, &maskMod, &found.fetch, &PyLong_Type,
                        &address, &found.owner, &found.device, &found.options, &isTorch,
                        &found.dtype, &found.f32))
    return NULL;
  found.kernel = PyLong_AsVoidPtr(address);
  found.isTorch = isTorch;
  if (!found.kernel || found.kernel->num_params > maxParams)
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);

  Plan *plan = PyMem_Malloc(sizeof(Plan));
  if (!plan)
    return PyErr_NoMemory();
  *plan = found;
  Py_INCREF(plan->fetch);
  Py_INCREF(plan->owner);
  Py_INCREF(plan->options);
  Py_INCREF(plan->dtype);
  Py_INCREF(plan->f32);
  PyObject *capsule = PyCapsule_New(plan, planName, freePlan);
  PyObject *site = siteOf(scoreMod, maskMod), *all = NULL;
  if (capsule && site) {
    if (PyDict_Size(plans) >= maxSites)
      PyDict_Clear(plans);
    PyObject *others = PyDict_GetItemWithError(plans, site);
    Py_ssize_t count = others ? PyTuple_Size(others) : 0;
    count = count < maxPlansOfSite ? count : maxPlansOfSite - 1;
    if ((all = PyTuple_New(count + 1))) {
      PyTuple_SetItem(all, 0, Py_NewRef(capsule));
      for (Py_ssize_t i = 0; i < count; ++i)
        PyTuple_SetItem(all, i + 1, Py_NewRef(PyTuple_GetItem(others, i)));
      PyDict_SetItem(plans, site, all);
    }
  }
  Py_XDECREF(all);
  Py_XDECREF(site);
  Py_XDECREF(capsule);
  return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject *clear(PyObject *module, PyObject *none) {
  (void)module, (void)none;
  PyDict_Clear(plans);
  return Py_NewRef(Py_None);
}

//===----------------------------------------------------------------------===//
// Arrays
//
// Functions that return false may have set an exception, which `call` then drops: it only means
// that the call is Python's.
//===----------------------------------------------------------------------===//

/// heed_dtype, or -1.
static int dtypeOf(const DLTensor *tensor) {
  switch (tensor->lanes == 1 ? tensor->code << 8 | tensor->bits : 0) {
  case 6 << 8 | 8:
    return HEED_BOOL;
  case 0 << 8 | 8:
    return HEED_I8;
  case 0 << 8 | 32:
    return HEED_I32;
  case 0 << 8 | 64:
    return HEED_I64;
  case 2 << 8 | 16:
    return HEED_F16;
  case 4 << 8 | 16:
    return HEED_BF16;
  case 2 << 8 | 32:
    return HEED_F32;
  default:
    return -1;
  }
}

/// Describes an array of exactly the types that Python has told of; others may behave in any way.
static bool describe(PyObject *array, heed_tensor *result, int32_t *device) {
  PyTypeObject *type = Py_TYPE(array);
  int dtype, rank;
  if (type == heed.tensor || type == heed.parameter) {
    DLTensor tensor;
    if (heed.exchange->describe(array, &tensor) != 0)
      return false;
    dtype = dtypeOf(&tensor), rank = tensor.rank;
    if (dtype < 0 || rank > HEED_MAX_RANK || (rank > 0 && !tensor.strides) ||
        (tensor.deviceType != deviceCPU && tensor.deviceType != deviceCUDA))
      return false;
    *device = tensor.deviceType == deviceCPU ? -1 : tensor.deviceId;
    result->data = (char *)tensor.data + tensor.byteOffset;
    for (int i = 0; i < rank; ++i) {
      result->shape[i] = tensor.shape[i];
      result->strides[i] = tensor.strides[i];
    }
  } else if (type == heed.ndarray) {
    const NumPyArray *tensor = (const NumPyArray *)array;
    PyObject *code = PyDict_GetItemWithError(heed.dtypeCodes, tensor->dtype);
    if (!code || code == Py_None || !(tensor->flags & numpyAligned))
      return false;
    dtype = (int)PyLong_AsLong(code), rank = tensor->rank;
    if (dtype < HEED_BOOL || dtype > HEED_F32 || rank > HEED_MAX_RANK)
      return false;
    static const Py_ssize_t sizes[] = {1, 1, 4, 8, 2, 2, 4}; // by heed_dtype
    *device = -1;
    result->data = tensor->data;
    for (int i = 0; i < rank; ++i) {
      if (tensor->strides[i] % sizes[dtype] != 0)
        return false;
      result->shape[i] = tensor->shape[i];
      result->strides[i] = tensor->strides[i] / sizes[dtype];
    }
  } else {
    return false;
  }
  result->dtype = (heed_dtype)dtype;
  result->rank = rank;
  return true;
}

/// Whether a call that returns a bool gives `expected`. `name`: a method's, or NULL to call `what`.
static bool answers(PyObject *what, PyObject *name, PyObject *expected) {
  PyObject *found = name ? PyObject_CallMethodObjArgs(what, name, NULL) : PyObject_CallNoArgs(what);
  Py_XDECREF(found); // true and false live on
  return found == expected;
}

/// Whether no gradient is asked of an array that `describe` has accepted.
static bool needsNoGradient(PyObject *array) {
  if (Py_TYPE(array) == heed.ndarray)
    return true;
  PyObject *requires = PyObject_GetAttr(array, nameRequiresGrad);
  Py_XDECREF(requires);
  return requires == Py_False ||
         (requires == Py_True && answers(heed.isGradEnabled, NULL, Py_False));
}

static PyObject *tupleOf(const int64_t *numbers, int count, int64_t factor) {
  PyObject *tuple = PyTuple_New(count);
  for (int i = 0; tuple && i < count; ++i) {
    PyObject *number = PyLong_FromLongLong(numbers[i] * factor);
    if (!number) {
      Py_DECREF(tuple);
      return NULL;
    }
    PyTuple_SetItem(tuple, i, number);
  }
  return tuple;
}

/// A new array of the plan's library and place, of the type that `dtype` stands for. `result` has
/// the shape and strides that it should get.
static PyObject *newArray(const Plan *plan, PyObject *dtype, heed_tensor *result) {
  int64_t size = result->dtype == HEED_F32 ? 4 : 2;
  PyObject *shape = tupleOf(result->shape, result->rank, 1);
  PyObject *strides = tupleOf(result->strides, result->rank, plan->isTorch ? 1 : size);
  PyObject *array = NULL, *args = NULL;
  if (shape && strides && plan->isTorch) {
    if ((args = PyTuple_Pack(2, shape, strides)))
      array = PyObject_Call(heed.emptyStrided, args, dtype);
  } else if (shape && strides) {
    PyObject *offset = PyLong_FromLong(0);
    if ((args = PyTuple_Pack(5, shape, dtype, Py_None, offset, strides)))
      array = PyObject_Call((PyObject *)heed.ndarray, args, NULL);
    Py_XDECREF(offset);
  }
  Py_XDECREF(args);
  Py_XDECREF(shape);
  Py_XDECREF(strides);
  return array;
}

//===----------------------------------------------------------------------===//
// The call
//===----------------------------------------------------------------------===//

typedef struct {
  heed_call call;
  void *data[6];
  heed_value params[maxParams];
  heed_tensor tensors[maxParams];
  int32_t device;
} Call;

/// Query, key and value: on one device, of one type, and of shapes that the runtime would not
/// refuse or that mean the same there. Empty arrays and strides that need copies are Python's.
static bool describeOperands(PyObject *const *arrays, bool enableGQA, Call *call) {
  heed_tensor *operands[] = {&call->call.query, &call->call.key, &call->call.value};
  const heed_tensor *query = operands[0], *key = operands[1], *value = operands[2];
  for (int i = 0; i < 3; ++i) {
    int32_t device;
    heed_tensor *operand = operands[i];
    if (i > 0 && arrays[i] == arrays[i - 1]) {
      *operand = *operands[i - 1];
    } else if (!describe(arrays[i], operand, &device) || !needsNoGradient(arrays[i])) {
      return false;
    } else if (i == 0) {
      call->device = device;
    } else if (device != call->device || Py_TYPE(arrays[i]) != Py_TYPE(arrays[0])) {
      return false;
    }
    if (operand->rank != 4 || operand->dtype != query->dtype || operand->strides[3] != 1)
      return false;
    for (int axis = 0; axis < 4; ++axis)
      if (operand->shape[axis] == 0)
        return false;
    call->data[i] = operand->data;
  }
  return memcmp(key->shape, value->shape, 3 * sizeof(int64_t)) == 0 &&
         (query->shape[1] == key->shape[1] || enableGQA);
}

/// The mask_mod of a BlockMask that was derived for such lengths: a new reference, or NULL.
static PyObject *maskModOf(PyObject *blockMask, const heed_call *call) {
  if (Py_TYPE(blockMask) != heed.blockMask)
    return NULL;
  PyObject *given = PyObject_GetAttr(blockMask, nameGiven);
  PyObject *derivation = PyObject_GetAttr(blockMask, nameDerivation);
  PyObject *shape = derivation ? PyObject_GetAttr(derivation, nameShape) : NULL;
  const int64_t wanted[] = {call->query.shape[0], call->query.shape[1], call->query.shape[2],
                            call->key.shape[2]};
  bool fits = given == Py_False && shape && PyTuple_Size(shape) == 4;
  for (int i = 0; fits && i < 4; ++i) {
    long long extent = PyLong_AsLongLong(PyTuple_GetItem(shape, i));
    fits = extent == wanted[i] || (i < 2 && extent == 1);
  }
  Py_XDECREF(given);
  Py_XDECREF(derivation);
  Py_XDECREF(shape);
  return fits ? PyObject_GetAttr(blockMask, nameMaskMod) : NULL;
}

static bool fits(const Plan *plan, const Call *call, PyObject *query, PyObject *options) {
  return plan->kernel->dtype == call->call.query.dtype && plan->device == call->device &&
         plan->kernel->head_dim == call->call.query.shape[3] &&
         plan->kernel->value_head_dim == call->call.value.shape[3] &&
         plan->isTorch == (Py_TYPE(query) != heed.ndarray) &&
         PyUnicode_Compare(plan->options, options) == 0;
}

/// What the mods capture now, by a plan of `candidates` that holds for them: a new reference to a
/// list, or NULL.
static PyObject *choosePlan(PyObject *candidates, const Call *call, PyObject *query,
                            PyObject *options, PyObject *scoreMod, PyObject *maskMod, Plan **plan) {
  for (Py_ssize_t i = 0, count = PyTuple_Size(candidates); i < count; ++i) {
    *plan = PyCapsule_GetPointer(PyTuple_GetItem(candidates, i), planName);
    if (!fits(*plan, call, query, options))
      continue;
    PyObject *values = PyObject_CallFunctionObjArgs((*plan)->fetch, scoreMod, maskMod, NULL);
    if (values != Py_None)
      return values;
    Py_DECREF(values);
  }
  return NULL;
}

static bool packValues(const heed_kernel *kernel, PyObject *values, Call *call) {
  if (PyList_Size(values) != kernel->num_params)
    return false;
  int32_t numTensors = 0;
  for (int32_t i = 0; i < kernel->num_params; ++i) {
    const heed_param *param = &kernel->params[i];
    PyObject *value = PyList_GetItem(values, i);
    if (param->rank < 0 && param->dtype >= HEED_F16) {
      call->params[i].f = PyFloat_AsDouble(value);
    } else if (param->rank < 0) {
      call->params[i].i = PyLong_AsLongLong(value);
    } else {
      heed_tensor *tensor = &call->tensors[numTensors];
      int32_t device;
      if (!describe(value, tensor, &device) || device != call->device ||
          tensor->dtype != param->dtype || !needsNoGradient(value) ||
          (Py_TYPE(value) != heed.ndarray && !answers(value, nameIsNeg, Py_False)))
        return false;
      call->params[i].i = numTensors++;
    }
  }
  return !PyErr_Occurred();
}

/// Shape and strides of the output: dense, with its axes in memory in the order of query's.
static bool layOutOutput(const heed_call *call, heed_tensor *output) {
  const heed_tensor *query = &call->query;
  int order[] = {0, 1, 2};
  for (int i = 0; i < 3; ++i) {
    if (query->strides[i] < 0)
      return false;
    for (int j = i; j > 0 && query->strides[order[j]] > query->strides[order[j - 1]]; --j) {
      int other = order[j];
      order[j] = order[j - 1];
      order[j - 1] = other;
    }
  }
  *output = *query;
  int64_t step = output->shape[3] = call->value.shape[3];
  for (int i = 2; i >= 0; --i) {
    output->strides[order[i]] = step;
    if (__builtin_mul_overflow(step, output->shape[order[i]], &step))
      return false;
  }
  return true;
}

/// Makes an array for one of the results, and describes what was made.
static PyObject *makeResult(const Plan *plan, PyObject *query, Call *call, heed_tensor *result,
                            int index) {
  const heed_tensor *wanted = &call->call.query;
  PyObject *array;
  if (result == &call->call.output) {
    if (!layOutOutput(&call->call, result))
      return NULL;
    // Of two ways the faster one.
    bool isLikeQuery = plan->isTorch && result->shape[3] == wanted->shape[3] &&
                       memcmp(result->strides, wanted->strides, 4 * sizeof(int64_t)) == 0;
    array = isLikeQuery ? PyObject_CallFunctionObjArgs(heed.emptyLike, query, NULL)
                        : newArray(plan, plan->dtype, result);
  } else {
    *result = (heed_tensor){NULL, HEED_F32, 3, {0}, {0}};
    memcpy(result->shape, wanted->shape, 3 * sizeof(int64_t));
    result->strides[2] = 1;
    result->strides[1] = result->shape[2];
    result->strides[0] = result->shape[1] * result->shape[2];
    array = newArray(plan, plan->f32, result);
  }
  // Under a mode of torch it may be anything.
  heed_tensor made;
  int32_t device;
  if (array && (!describe(array, &made, &device) || device != call->device ||
                made.dtype != result->dtype || made.rank != result->rank ||
                memcmp(made.shape, result->shape, (size_t)made.rank * sizeof(int64_t)) != 0)) {
    Py_DECREF(array);
    return NULL;
  }
  if (array) {
    *result = made;
    call->data[index] = made.data;
  }
  return array;
}

static bool setNumbers(PyObject *scale, bool isTorch, heed_call *call) {
  call->scale = NAN;
  if (scale != Py_None) {
    if (!PyFloat_CheckExact(scale) && !PyLong_CheckExact(scale))
      return false;
    call->scale = PyFloat_AsDouble(scale);
    if (!isfinite(call->scale) || PyErr_Occurred())
      return false;
  }
  call->num_threads = 0;
  if (isTorch) { // who limits torch's threads limits Heed's
    PyObject *threads = PyObject_CallNoArgs(heed.numThreads);
    call->num_threads = threads ? (int32_t)PyLong_AsLong(threads) : -1;
    Py_XDECREF(threads);
  }
  return !PyErr_Occurred();
}

static bool start(const Plan *plan, const Call *call) {
  void *stream = NULL;
  if (call->device >= 0 && heed.exchange->currentStream(deviceCUDA, call->device, &stream) != 0)
    return false;
  PyThreadState *state = PyEval_SaveThread();
  heed_status status =
      call->device < 0
          ? heed.run(plan->kernel, &call->call, call->data, call->params, call->tensors)
          : heed.launch(plan->kernel, &call->call, call->data, call->params, call->tensors, stream,
                        call->device);
  PyEval_RestoreThread(state);
  return status == HEED_OK;
}

/// Whether a further result is asked for: -1 if that cannot be said here.
static int asksFor(PyObject *aux, Py_ssize_t index) {
  PyObject *asked = aux == Py_None ? Py_False : PyTuple_GetItem(aux, index);
  return asked == Py_True ? 1 : asked == Py_False ? 0 : -1;
}

/// call(query, key, value, score_mod, block_mask, mask_mod, scale, enable_gqa, return_lse,
/// return_aux, options)
static PyObject *call(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != 11)
    return PyErr_Format(PyExc_TypeError, "expected 11 arguments, found %zd", count);
  PyObject *query = args[0], *scoreMod = args[3], *blockMask = args[4], *maskMod = args[5];
  PyObject *aux = args[9], *options = args[10];
  PyObject *site = NULL, *candidates = NULL, *values = NULL, *answer = NULL;
  PyObject *results[3] = {NULL, NULL, NULL}; // output, LSE, largest scores
  bool isMissing = false;
  Plan *plan = NULL;
  Call it;
  memset(&it.call, 0, sizeof(it.call));
  memset(it.data, 0, sizeof(it.data));
  Py_INCREF(maskMod);

  if (args[8] != Py_False || (aux != Py_None && Py_TYPE(aux) != heed.auxRequest) ||
      !PyUnicode_CheckExact(options) || !describeOperands(args, args[7] == Py_True, &it))
    goto done;
  if (blockMask != Py_None) {
    bool hasBoth = maskMod != Py_None;
    Py_DECREF(maskMod);
    if (!(maskMod = hasBoth ? NULL : maskModOf(blockMask, &it.call)))
      goto done;
  }
  if (!(site = siteOf(scoreMod, maskMod)))
    goto done;
  candidates = PyDict_GetItemWithError(plans, site);
  Py_XINCREF(candidates); // what `fetch` runs may change them
  if (candidates)
    values = choosePlan(candidates, &it, query, options, scoreMod, maskMod, &plan);
  if (!values) {
    isMissing = !PyErr_Occurred();
    goto done;
  }
  if (!packValues(plan->kernel, values, &it) || !setNumbers(args[6], plan->isTorch, &it.call))
    goto done;
  heed_tensor *places[] = {&it.call.output, &it.call.lse, &it.call.max_scores};
  for (int i = 0; i < 3; ++i) {
    int wants = i == 0 ? 1 : asksFor(aux, i - 1);
    if (wants < 0 || (wants && !(results[i] = makeResult(plan, query, &it, places[i], 3 + i))))
      goto done;
  }
  if (!start(plan, &it))
    goto done;
  if (aux == Py_None) {
    answer = Py_NewRef(results[0]);
  } else {
    PyObject *rest =
        PyObject_CallFunctionObjArgs((PyObject *)heed.auxOutput, results[1] ? results[1] : Py_None,
                                     results[2] ? results[2] : Py_None, NULL);
    answer = rest ? PyTuple_Pack(2, results[0], rest) : NULL;
    Py_XDECREF(rest);
  }

done:
  for (int i = 0; i < 3; ++i)
    Py_XDECREF(results[i]);
  Py_XDECREF(values);
  Py_XDECREF(candidates);
  Py_XDECREF(site);
  Py_XDECREF(maskMod);
  if (answer)
    return answer;
  if (PyErr_Occurred()) {
    if (!PyErr_ExceptionMatches(PyExc_Exception)) // KeyboardInterrupt
      return NULL;
    PyErr_Clear();
  }
  return Py_NewRef(isMissing ? Py_None : Py_NotImplemented);
}

//===----------------------------------------------------------------------===//
// The module
//===----------------------------------------------------------------------===//

/// use_heed(address of heed_run_packed, of heed_launch_packed, BlockMask, AuxRequest, AuxOutput)
static PyObject *useHeed(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *run, *launch, *types[3];
  if (!PyArg_ParseTuple(args, "O!O!OOO", &PyLong_Type, &run, &PyLong_Type, &launch, &types[0],
                        &types[1], &types[2]))
    return NULL;
  heed.run = (RunFn)PyLong_AsVoidPtr(run);
  heed.launch = (LaunchFn)PyLong_AsVoidPtr(launch);
  heed.blockMask = (PyTypeObject *)Py_NewRef(types[0]);
  heed.auxRequest = (PyTypeObject *)Py_NewRef(types[1]);
  heed.auxOutput = (PyTypeObject *)Py_NewRef(types[2]);
  return Py_NewRef(Py_None);
}

/// use_numpy(ndarray, dtype_codes)
static PyObject *useNumPy(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *type, *codes;
  if (!PyArg_ParseTuple(args, "OO!", &type, &PyDict_Type, &codes))
    return NULL;
  heed.ndarray = (PyTypeObject *)Py_NewRef(type);
  heed.dtypeCodes = Py_NewRef(codes);
  return Py_NewRef(Py_None);
}

/// use_torch(Tensor, Parameter, Tensor.__dlpack_c_exchange_api__, empty_like, empty_strided,
/// get_num_threads, is_grad_enabled)
static PyObject *useTorch(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *tensor, *parameter, *capsule, *functions[4];
  if (!PyArg_ParseTuple(args, "OOOOOOO", &tensor, &parameter, &capsule, &functions[0],
                        &functions[1], &functions[2], &functions[3]))
    return NULL;
  const DLExchange *exchange = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  if (!exchange)
    return NULL;
  if (exchange->major != 1 || !exchange->describe)
    return PyErr_Format(PyExc_ImportError, "torch describes tensors by DLPack %u, expected 1",
                        exchange->major);
  heed.exchange = exchange;
  heed.emptyLike = Py_NewRef(functions[0]);
  heed.emptyStrided = Py_NewRef(functions[1]);
  heed.numThreads = Py_NewRef(functions[2]);
  heed.isGradEnabled = Py_NewRef(functions[3]);
  heed.parameter = (PyTypeObject *)Py_NewRef(parameter);
  heed.tensor = (PyTypeObject *)Py_NewRef(tensor);
  return Py_NewRef(Py_None);
}

/// describe(array): (address, dtype, device, shape, strides) as calls see them, or None.
static PyObject *describeForTests(PyObject *module, PyObject *array) {
  (void)module;
  heed_tensor found;
  int32_t device;
  if (!describe(array, &found, &device)) {
    PyErr_Clear();
    return Py_NewRef(Py_None);
  }
  PyObject *shape = tupleOf(found.shape, found.rank, 1);
  PyObject *strides = tupleOf(found.strides, found.rank, 1);
  return Py_BuildValue("KiiNN", (unsigned long long)(uintptr_t)found.data, (int)found.dtype,
                       (int)device, shape, strides);
}

static PyMethodDef methods[] = {{"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, NULL},
                                {"remember", remember, METH_VARARGS, NULL},
                                {"clear", clear, METH_NOARGS, NULL},
                                {"describe", describeForTests, METH_O, NULL},
                                {"use_heed", useHeed, METH_VARARGS, NULL},
                                {"use_numpy", useNumPy, METH_VARARGS, NULL},
                                {"use_torch", useTorch, METH_VARARGS, NULL},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "heed._hot", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__hot(void) {
  PyObject *module = PyModule_Create(&definition);
  if (!module)
    return NULL;
  plans = PyDict_New();
  nameCode = PyUnicode_InternFromString("__code__");
  nameClass = PyUnicode_InternFromString("__class__");
  nameGiven = PyUnicode_InternFromString("_given");
  nameDerivation = PyUnicode_InternFromString("_derivation");
  nameShape = PyUnicode_InternFromString("shape");
  nameMaskMod = PyUnicode_InternFromString("_mask_mod");
  nameRequiresGrad = PyUnicode_InternFromString("requires_grad");
  nameIsNeg = PyUnicode_InternFromString("is_neg");
  // Python compares them with its own view of heed_call and heed_tensor.
  PyModule_AddIntConstant(module, "ABI_VERSION", HEED_ABI_VERSION);
  PyModule_AddIntConstant(module, "CALL_BYTES", sizeof(heed_call));
  if (PyErr_Occurred()) {
    Py_DECREF(module);
    return NULL;
  }
  return module;
}
