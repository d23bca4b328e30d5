// Schemas and CPU registration of the ops, through torch's stable ABI.
//
// The meaning of every op is faststeer/reference.py; the docstrings are in faststeer/ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "call.h"

namespace faststeer {
namespace {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

Element element_of(const Tensor& tensor) {
  int32_t dtype;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  if (dtype == aoti_torch_dtype_float32()) return Element::float32;
  if (dtype == aoti_torch_dtype_bfloat16()) return Element::bfloat16;
  if (dtype == aoti_torch_dtype_float16()) return Element::float16;
  if (dtype == aoti_torch_dtype_int32()) return Element::int32;
  return Element::other;
}

View view_of(const Tensor& tensor, const char* name) {
  return {name,         tensor.data_ptr(), tensor.sizes().data(), tensor.strides().data(),
          tensor.dim(), element_of(tensor)};
}

// An input the kernel can read: rows that are not evenly spaced are copied first.
struct Input {
  Tensor tensor;
  View view;

  Input(const Tensor& given, const char* name) : tensor(given), view(view_of(given, name)) {
    if (view.dim > 0 && view.row_stride() < 0) {
      tensor = torch::stable::contiguous(given);
      view = view_of(tensor, name);
    }
  }
};

struct Inputs {
  Input residual;
  std::optional<Input> x, weight, vectors, index, coefficient;
};

std::optional<Input> input(const MaybeTensor& tensor, const char* name) {
  if (!tensor.has_value()) return std::nullopt;
  return Input(*tensor, name);
}

std::optional<View> view(const std::optional<Input>& input) {
  if (!input.has_value()) return std::nullopt;
  return input->view;
}

void run(const Inputs& inputs, double eps, const Tensor* out, const Tensor& residual_out) {
  Call call{inputs.residual.view,
            view_of(residual_out, "residual_out"),
            view(inputs.x),
            view(inputs.weight),
            std::nullopt,
            view(inputs.vectors),
            view(inputs.index),
            view(inputs.coefficient),
            eps};
  if (out != nullptr) call.out = view_of(*out, "out");
  run_on_cpu(call);
}

// Large results come from the system as untouched 4 KiB pages, and touching them costs three times
// what the kernel does (24 ms against 8 for 4,096 rows of 4096). Huge pages, where the system gives
// them when asked, take most of that away.
void ask_for_huge_pages(const Tensor& tensor) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{1} << 21;
  const uintptr_t bytes = static_cast<uintptr_t>(tensor.numel()) * tensor.element_size();
  if (bytes < 4 * kHugePage || !tensor.is_cpu()) return;
  const uintptr_t data = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t begin = (data + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (data + bytes) & ~(kHugePage - 1);
  // Advice: where it is refused, the result is the same.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// torch::stable::empty_like goes through the dispatcher by name; this is one call of the C ABI.
Tensor empty_dense_like(const Tensor& like) {
  constexpr int64_t kMaxDim = 8;
  const int64_t dim = like.dim();
  const int64_t* sizes = like.sizes().data();
  STD_TORCH_CHECK(dim <= kMaxDim, "the residual has ", dim, " dimensions; at most 8 are supported");
  int64_t strides[kMaxDim];
  int64_t step = 1;
  for (int64_t d = dim - 1; d >= 0; --d) {
    strides[d] = step;
    step *= sizes[d] > 0 ? sizes[d] : 1;
  }
  int32_t dtype, device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, dtype, device_type, device_index, &handle));
  Tensor tensor(handle);
  ask_for_huge_pages(tensor);
  return tensor;
}

void steer_add_rms_norm_out(const MaybeTensor& x, const Tensor& residual, const Tensor& weight,
                            double eps, const MaybeTensor& vectors, const MaybeTensor& index,
                            const MaybeTensor& coefficient, const Tensor& out,
                            const Tensor& residual_out) {
  run({Input(residual, "residual"), input(x, "x"), Input(weight, "weight"),
       input(vectors, "vectors"), input(index, "index"), input(coefficient, "coefficient")},
      eps, &out, residual_out);
}

std::tuple<Tensor, Tensor> steer_add_rms_norm(const MaybeTensor& x, const Tensor& residual,
                                              const Tensor& weight, double eps,
                                              const MaybeTensor& vectors, const MaybeTensor& index,
                                              const MaybeTensor& coefficient) {
  Tensor out = empty_dense_like(residual);
  Tensor residual_out = empty_dense_like(residual);
  steer_add_rms_norm_out(x, residual, weight, eps, vectors, index, coefficient, out, residual_out);
  return {std::move(out), std::move(residual_out)};
}

Tensor steer_add(const MaybeTensor& x, const Tensor& residual, const MaybeTensor& vectors,
                 const MaybeTensor& index, const MaybeTensor& coefficient) {
  Tensor residual_out = empty_dense_like(residual);
  run({Input(residual, "residual"), input(x, "x"), std::nullopt, input(vectors, "vectors"),
       input(index, "index"), input(coefficient, "coefficient")},
      0.0, nullptr, residual_out);
  return residual_out;
}

}  // namespace
}  // namespace faststeer

STABLE_TORCH_LIBRARY(faststeer, m) {
  m.def(
      "steer_add_rms_norm(Tensor? x, Tensor residual, Tensor weight, float eps, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None) -> (Tensor, Tensor)");
  // Outputs by position: keyword arguments alone cost 0.9 us a call.
  m.def(
      "steer_add_rms_norm.out(Tensor? x, Tensor residual, Tensor weight, float eps, "
      "Tensor? vectors, Tensor? index, Tensor? coefficient, "
      "Tensor(a!) out, Tensor(b!) residual_out) -> ()");
  m.def(
      "steer_add(Tensor? x, Tensor residual, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None) -> Tensor");
  // The same functions with autograd: torch runs Python on every call of an op that has it, even
  // under no_grad, so the ops above stay without.
  m.def(
      "steer_add_rms_norm_autograd(Tensor? x, Tensor residual, Tensor weight, float eps, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None) -> (Tensor, Tensor)");
  m.def(
      "steer_add_autograd(Tensor? x, Tensor residual, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(faststeer, CPU, m) {
  m.impl("steer_add_rms_norm", TORCH_BOX(&faststeer::steer_add_rms_norm));
  m.impl("steer_add_rms_norm.out", TORCH_BOX(&faststeer::steer_add_rms_norm_out));
  m.impl("steer_add", TORCH_BOX(&faststeer::steer_add));
  m.impl("steer_add_rms_norm_autograd", TORCH_BOX(&faststeer::steer_add_rms_norm));
  m.impl("steer_add_autograd", TORCH_BOX(&faststeer::steer_add));
}
