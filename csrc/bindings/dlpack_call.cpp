// The dispatcher takes 3.1 us for an op with this many arguments, more than the kernel takes for a
// row of 4096. See docs/decisions.md. Tensors come through the C table that DLPack 1.3 asks of
// every framework, which reads a tensor's facts in some 20 ns and is ABI-stable. A torch without it
// gets False, always.
#include "bindings/dlpack_call.h"

#include <ATen/dlpack.h>

#include <stdexcept>

#include "common/checked_call.h"
#include "cpu/parallel.h"

namespace faststeer {
namespace {

constexpr int kArguments = 11;

PyTypeObject* tensor_type = nullptr;
PyTypeObject* parameter_type = nullptr;
const DLPackExchangeAPI* exchange = nullptr;

Element element_of(DLDataType dtype) {
  if (dtype.lanes != 1) return Element::other;
  if (dtype.code == kDLFloat && dtype.bits == 32) return Element::float32;
  if (dtype.code == kDLBfloat && dtype.bits == 16) return Element::bfloat16;
  if (dtype.code == kDLFloat && dtype.bits == 16) return Element::float16;
  if (dtype.code == kDLInt && dtype.bits == 32) return Element::int32;
  return Element::other;
}

// Whether `view` could be filled: subclasses may mean something else by their data.
bool read(PyObject* object, const char* name, View& view) {
  if (Py_TYPE(object) != tensor_type && Py_TYPE(object) != parameter_type) return false;
  DLTensor tensor;
  if (exchange->dltensor_from_py_object_no_sync(object, &tensor) != 0) {
    PyErr_Clear();  // meta, sparse or batched: the dispatcher knows what to do with it
    return false;
  }
  if (tensor.device.device_type != kDLCPU || tensor.ndim < 1) return false;
  view = {name,
          static_cast<char*>(tensor.data) + tensor.byte_offset,
          tensor.shape,
          tensor.strides,
          tensor.ndim,
          element_of(tensor.dtype),
          {Device::Type::cpu, 0}};
  return view.row_stride() >= 0;
}

bool read(PyObject* object, const char* name, std::optional<View>& view) {
  if (object == Py_None) return true;
  return read(object, name, view.emplace());
}

PyObject* steer_add_rms_norm_out(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (count != kArguments) {
    PyErr_Format(PyExc_TypeError, "steer_add_rms_norm_out takes %d arguments, not %zd", kArguments,
                 count);
    return nullptr;
  }
  try {
    if (exchange == nullptr) Py_RETURN_FALSE;
    SteerNormCall call{};
    call.eps = PyFloat_AsDouble(given[3]);
    if (call.eps == -1.0 && PyErr_Occurred() != nullptr) return nullptr;
    call.weight_offset = PyFloat_AsDouble(given[8]);
    if (call.weight_offset == -1.0 && PyErr_Occurred() != nullptr) return nullptr;
    if (!read(given[0], "x", call.x) || !read(given[1], "residual", call.residual) ||
        !read(given[2], "weight", call.weight.emplace()) ||
        !read(given[4], "vectors", call.vectors) || !read(given[5], "index", call.index) ||
        !read(given[6], "coefficient", call.coefficient) || !read(given[7], "modes", call.modes) ||
        !read(given[9], "out", call.out.emplace()) ||
        !read(given[10], "residual_out", call.residual_out)) {
      Py_RETURN_FALSE;
    }
    const pybind11::gil_scoped_release others_may_run;
    run_steer_norm(checked(call));
  } catch (pybind11::error_already_set& error) {
    error.restore();
    return nullptr;
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
  Py_RETURN_TRUE;
}

PyMethodDef method = {
    "steer_add_rms_norm_out",
    reinterpret_cast<PyCFunction>(
        reinterpret_cast<void*>(static_cast<_PyCFunctionFast>(steer_add_rms_norm_out))),
    METH_FASTCALL, "steer_add_rms_norm into given tensors; False where the op has to be called."};

}  // namespace

void add_direct_call(pybind11::module_& module) {
  const pybind11::object tensor = pybind11::module_::import("torch").attr("Tensor");
  tensor_type = reinterpret_cast<PyTypeObject*>(tensor.ptr());
  parameter_type = reinterpret_cast<PyTypeObject*>(
      pybind11::module_::import("torch.nn").attr("Parameter").ptr());
  if (pybind11::hasattr(tensor, "__dlpack_c_exchange_api__")) {
    const pybind11::object capsule = tensor.attr("__dlpack_c_exchange_api__");
    exchange = static_cast<const DLPackExchangeAPI*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (exchange == nullptr) throw pybind11::error_already_set();
    if (exchange->header.version.major != DLPACK_MAJOR_VERSION ||
        exchange->dltensor_from_py_object_no_sync == nullptr) {
      exchange = nullptr;
    }
  }
  module.add_object("steer_add_rms_norm_out", pybind11::reinterpret_steal<pybind11::object>(
                                                  PyCFunction_New(&method, nullptr)));
}

}  // namespace faststeer
