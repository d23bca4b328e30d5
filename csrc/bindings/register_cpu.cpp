// Schemas and CPU registration of the ops, through torch's stable ABI.
//
// The meaning of every op is faststeer/ops/reference.py; the docstrings are in
// faststeer/ops/functional.py.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>
#include <tuple>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "bindings/backward_tensors.h"
#include "bindings/entry_tables.h"
#include "bindings/stable_tensors.h"
#include "cpu/parallel.h"

namespace faststeer {
namespace {

// Large results come from the system as untouched 4 KiB pages, and touching them costs three times
// what the kernel does (24 ms against 8 for 4,096 rows of 4096). Huge pages, where the system gives
// them when asked, take most of that away.
void ask_for_huge_pages(const Tensor& tensor) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{1} << 21;
  const uintptr_t bytes = static_cast<uintptr_t>(tensor.numel()) * tensor.element_size();
  if (bytes < 4 * kHugePage) return;
  const uintptr_t data = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t begin = (data + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (data + bytes) & ~(kHugePage - 1);
  // Advice: where it is refused, the result is the same.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

Tensor result(const Tensor& like, const int64_t* sizes, int64_t dim, int32_t dtype) {
  Tensor tensor = empty_dense(like, sizes, dim, dtype);
  ask_for_huge_pages(tensor);
  return tensor;
}

Tensor result_like(const Tensor& like) {
  Tensor tensor = empty_dense_like(like);
  ask_for_huge_pages(tensor);
  return tensor;
}

void steer_add_rms_norm_out(const MaybeTensor& x, const Tensor& residual, const Tensor& weight,
                            double eps, const MaybeTensor& vectors, const MaybeTensor& index,
                            const MaybeTensor& coefficient, const MaybeTensor& modes,
                            double weight_offset, const Tensor& out, const Tensor& residual_out) {
  const SteerNormInputs inputs(x, residual, &weight, {vectors, index, coefficient, modes});
  run_steer_norm(inputs.into(residual_out, &out, eps, weight_offset));
}

std::tuple<Tensor, Tensor> steer_add_rms_norm(const MaybeTensor& x, const Tensor& residual,
                                              const Tensor& weight, double eps,
                                              const MaybeTensor& vectors, const MaybeTensor& index,
                                              const MaybeTensor& coefficient,
                                              const MaybeTensor& modes, double weight_offset) {
  Tensor out = result_like(residual);
  Tensor residual_out = result_like(residual);
  steer_add_rms_norm_out(x, residual, weight, eps, vectors, index, coefficient, modes,
                         weight_offset, out, residual_out);
  return {std::move(out), std::move(residual_out)};
}

std::tuple<Tensor, Tensor, Tensor> steer_add_rms_norm_for_backward(
    const MaybeTensor& x, const Tensor& residual, const Tensor& weight, double eps,
    const MaybeTensor& vectors, const MaybeTensor& index, const MaybeTensor& coefficient,
    const MaybeTensor& modes, double weight_offset) {
  Tensor out = result_like(residual);
  Tensor residual_out = result_like(residual);
  Tensor inverse_rms = empty_inverse_rms(residual);
  const SteerNormInputs inputs(x, residual, &weight, {vectors, index, coefficient, modes});
  run_steer_norm(inputs.into(residual_out, &out, eps, weight_offset, &inverse_rms));
  return {std::move(out), std::move(residual_out), std::move(inverse_rms)};
}

void steer_add_rms_norm_by_table(const Tensor& x, const Tensor& residual, const Tensor& weight,
                                 double eps, double weight_offset, int64_t table) {
  run_steer_norm(args_by_table(x, residual, weight, eps, weight_offset, table));
}

Tensor steer_add(const MaybeTensor& x, const Tensor& residual, const MaybeTensor& vectors,
                 const MaybeTensor& index, const MaybeTensor& coefficient,
                 const MaybeTensor& modes) {
  Tensor residual_out = result_like(residual);
  const SteerNormInputs inputs(x, residual, nullptr, {vectors, index, coefficient, modes});
  run_steer_norm(inputs.into(residual_out));
  return residual_out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> steer_add_rms_norm_backward(
    const Tensor& grad_out, const MaybeTensor& grad_residual, const Tensor& h, const Tensor& weight,
    const Tensor& inverse_rms, double weight_offset, const MaybeTensor& vectors,
    const MaybeTensor& index, const MaybeTensor& coefficient, MaybeDtype x_dtype, bool for_h,
    bool for_weight, bool for_vectors, bool for_coefficient) {
  const GivenToNorm norm{grad_out, h, weight, inverse_rms, weight_offset};
  BackwardTensors tensors(&norm, grad_residual, {vectors, index, coefficient, std::nullopt},
                          {x_dtype, for_h, for_weight, for_vectors, for_coefficient}, result);
  run_backward(tensors.args());
  return std::move(tensors).results();
}

std::tuple<Tensor, Tensor> steer_add_backward(const Tensor& grad, const Tensor& vectors,
                                              const Tensor& index, const Tensor& coefficient,
                                              bool for_vectors, bool for_coefficient) {
  BackwardTensors tensors(nullptr, grad, {vectors, index, coefficient, std::nullopt},
                          {std::nullopt, false, false, for_vectors, for_coefficient}, result);
  run_backward(tensors.args());
  auto results = std::move(tensors).results();
  return {std::get<3>(std::move(results)), std::get<4>(std::move(results))};
}

void accumulate_moments(const Tensor& x, const MaybeTensor& group, const Tensor& count,
                        const Tensor& mean, const Tensor& m2) {
  const MomentsInputs inputs(x, group);
  run_moments(inputs.into(count, mean, m2));
}

}  // namespace
}  // namespace faststeer

STABLE_TORCH_LIBRARY(faststeer, m) {
  m.def(
      "steer_add_rms_norm(Tensor? x, Tensor residual, Tensor weight, float eps, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None, "
      "Tensor? modes=None, float weight_offset=0.0) -> (Tensor, Tensor)");
  // Outputs by position: keyword arguments alone cost 0.9 us per call.
  m.def(
      "steer_add_rms_norm.out(Tensor? x, Tensor residual, Tensor weight, float eps, "
      "Tensor? vectors, Tensor? index, Tensor? coefficient, Tensor? modes, float weight_offset, "
      "Tensor(a!) out, Tensor(b!) residual_out) -> ()");
  // In place, with entries that are given once (bindings/entry_tables.h).
  m.def(
      "steer_add_rms_norm_by_table(Tensor(a!) x, Tensor(b!) residual, Tensor weight, float eps, "
      "float weight_offset, int table) -> ()");
  m.def(
      "set_entry_table(int table, Tensor vectors, Tensor index, Tensor coefficient, "
      "Tensor modes) -> ()");
  m.def("drop_entry_table(Tensor index, int table) -> ()");
  m.def(
      "steer_add(Tensor? x, Tensor residual, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None, "
      "Tensor? modes=None) -> Tensor");
  m.def(
      "accumulate_moments(Tensor x, Tensor? group, "
      "Tensor(a!) count, Tensor(b!) mean, Tensor(c!) m2) -> ()");
  // The same functions with autograd: torch runs Python on every call of an op that has it, even
  // under no_grad, so the ops above stay without. The third result is for the backward pass.
  m.def(
      "steer_add_rms_norm_autograd(Tensor? x, Tensor residual, Tensor weight, float eps, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None, "
      "Tensor? modes=None, float weight_offset=0.0) -> (Tensor, Tensor, Tensor)");
  m.def(
      "steer_add_autograd(Tensor? x, Tensor residual, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None, "
      "Tensor? modes=None) -> Tensor");
  // Gradients of h, x, weight, vectors and coefficient; without elements where not asked for.
  m.def(
      "steer_add_rms_norm_backward(Tensor grad_out, Tensor? grad_residual, Tensor h, "
      "Tensor weight, Tensor inverse_rms, float weight_offset, Tensor? vectors, Tensor? index, "
      "Tensor? coefficient, ScalarType? x_dtype, bool for_h, bool for_weight, bool for_vectors, "
      "bool for_coefficient) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "steer_add_backward(Tensor grad, Tensor vectors, Tensor index, Tensor coefficient, "
      "bool for_vectors, bool for_coefficient) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(faststeer, CPU, m) {
  m.impl("steer_add_rms_norm", TORCH_BOX(&faststeer::steer_add_rms_norm));
  m.impl("steer_add_rms_norm.out", TORCH_BOX(&faststeer::steer_add_rms_norm_out));
  m.impl("steer_add_rms_norm_by_table", TORCH_BOX(&faststeer::steer_add_rms_norm_by_table));
  m.impl("set_entry_table", TORCH_BOX(&faststeer::set_entry_table));
  m.impl("drop_entry_table", TORCH_BOX(&faststeer::drop_entry_table));
  m.impl("steer_add", TORCH_BOX(&faststeer::steer_add));
  m.impl("accumulate_moments", TORCH_BOX(&faststeer::accumulate_moments));
  m.impl("steer_add_rms_norm_autograd", TORCH_BOX(&faststeer::steer_add_rms_norm_for_backward));
  m.impl("steer_add_autograd", TORCH_BOX(&faststeer::steer_add));
  m.impl("steer_add_rms_norm_backward", TORCH_BOX(&faststeer::steer_add_rms_norm_backward));
  m.impl("steer_add_backward", TORCH_BOX(&faststeer::steer_add_backward));
}
