#include "bindings/dlpack_views.h"

#include <ATen/dlpack.h>
#include <pybind11/pybind11.h>

namespace faststeer {
namespace {

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

Device device_of(DLDevice device) {
  if (device.device_type == kDLCPU) return {Device::Type::cpu, 0};
  if (device.device_type == kDLCUDA) return {Device::Type::cuda, device.device_id};
  return {Device::Type::other, 0};
}

const DLPackExchangeAPI* exchange_of(const pybind11::object& tensor) {
  if (!pybind11::hasattr(tensor, "__dlpack_c_exchange_api__")) return nullptr;
  const pybind11::object capsule = tensor.attr("__dlpack_c_exchange_api__");
  const auto* found = static_cast<const DLPackExchangeAPI*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (found == nullptr) throw pybind11::error_already_set();
  const bool known = found->header.version.major == DLPACK_MAJOR_VERSION;
  return known && found->dltensor_from_py_object_no_sync != nullptr ? found : nullptr;
}

}  // namespace

bool read(PyObject* object, const char* name, View& view) {
  if (exchange == nullptr) return false;
  if (Py_TYPE(object) != tensor_type && Py_TYPE(object) != parameter_type) return false;
  DLTensor tensor;
  if (exchange->dltensor_from_py_object_no_sync(object, &tensor) != 0) {
    PyErr_Clear();  // meta, sparse or batched: the dispatcher knows what to do with it
    return false;
  }
  if (tensor.ndim < 1) return false;
  view = {name,
          static_cast<char*>(tensor.data) + tensor.byte_offset,
          tensor.shape,
          tensor.strides,
          tensor.ndim,
          element_of(tensor.dtype),
          device_of(tensor.device)};
  return view.element != Element::other && view.row_stride() >= 0;
}

bool read(PyObject* object, const char* name, std::optional<View>& view) {
  if (object == Py_None) return true;
  return read(object, name, view.emplace());
}

void find_tensors() {
  const pybind11::module_ torch = pybind11::module_::import("torch");
  const pybind11::object tensor = torch.attr("Tensor");
  tensor_type = reinterpret_cast<PyTypeObject*>(tensor.ptr());
  parameter_type = reinterpret_cast<PyTypeObject*>(torch.attr("nn").attr("Parameter").ptr());
  exchange = exchange_of(tensor);
}

}  // namespace faststeer
