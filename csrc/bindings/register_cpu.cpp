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

Tensor steer_add(const MaybeTensor& x, const Tensor& residual, const MaybeTensor& vectors,
                 const MaybeTensor& index, const MaybeTensor& coefficient,
                 const MaybeTensor& modes) {
  Tensor residual_out = result_like(residual);
  const SteerNormInputs inputs(x, residual, nullptr, {vectors, index, coefficient, modes});
  run_steer_norm(inputs.into(residual_out));
  return residual_out;
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
  m.def(
      "steer_add(Tensor? x, Tensor residual, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None, "
      "Tensor? modes=None) -> Tensor");
  m.def(
      "accumulate_moments(Tensor x, Tensor? group, "
      "Tensor(a!) count, Tensor(b!) mean, Tensor(c!) m2) -> ()");
  // The same functions with autograd: torch runs Python on every call of an op that has it, even
  // under no_grad, so the ops above stay without.
  m.def(
      "steer_add_rms_norm_autograd(Tensor? x, Tensor residual, Tensor weight, float eps, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None, "
      "Tensor? modes=None, float weight_offset=0.0) -> (Tensor, Tensor)");
  m.def(
      "steer_add_autograd(Tensor? x, Tensor residual, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None, "
      "Tensor? modes=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(faststeer, CPU, m) {
  m.impl("steer_add_rms_norm", TORCH_BOX(&faststeer::steer_add_rms_norm));
  m.impl("steer_add_rms_norm.out", TORCH_BOX(&faststeer::steer_add_rms_norm_out));
  m.impl("steer_add", TORCH_BOX(&faststeer::steer_add));
  m.impl("accumulate_moments", TORCH_BOX(&faststeer::accumulate_moments));
  m.impl("steer_add_rms_norm_autograd", TORCH_BOX(&faststeer::steer_add_rms_norm));
  m.impl("steer_add_autograd", TORCH_BOX(&faststeer::steer_add));
}
