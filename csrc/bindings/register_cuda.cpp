// CUDA registration of the ops whose schemas are in register_cpu.cpp.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <utility>

#include "bindings/backward_tensors.h"
#include "bindings/entry_tables.h"
#include "bindings/stable_tensors.h"
#include "cuda/kernels.h"
#include "cuda/launch_plan.h"

namespace faststeer {
namespace {

// A checked call's device, current for as long as this lives, and the current stream there. The
// guard is torch's, because cudaSetDevice on the way back would make a context (half a gigabyte) on
// a device that is not used.
class Queue {
 public:
  explicit Queue(const Tensor& tensor) : device(tensor.get_device_index()), guard_(device) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  }

  const int32_t device;
  void* stream = nullptr;

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};

void steer_add_rms_norm_out(const MaybeTensor& x, const Tensor& residual, const Tensor& weight,
                            double eps, const MaybeTensor& vectors, const MaybeTensor& index,
                            const MaybeTensor& coefficient, const MaybeTensor& modes,
                            double weight_offset, const Tensor& out, const Tensor& residual_out) {
  const SteerNormInputs inputs(x, residual, &weight, {vectors, index, coefficient, modes});
  const SteerNormArgs args = inputs.into(residual_out, &out, eps, weight_offset);
  const Queue queue(residual);
  launch_steer_norm(args, queue.device, queue.stream);
}

std::tuple<Tensor, Tensor> steer_add_rms_norm(const MaybeTensor& x, const Tensor& residual,
                                              const Tensor& weight, double eps,
                                              const MaybeTensor& vectors, const MaybeTensor& index,
                                              const MaybeTensor& coefficient,
                                              const MaybeTensor& modes, double weight_offset) {
  Tensor out = empty_dense_like(residual);
  Tensor residual_out = empty_dense_like(residual);
  steer_add_rms_norm_out(x, residual, weight, eps, vectors, index, coefficient, modes,
                         weight_offset, out, residual_out);
  return {std::move(out), std::move(residual_out)};
}

std::tuple<Tensor, Tensor, Tensor> steer_add_rms_norm_for_backward(
    const MaybeTensor& x, const Tensor& residual, const Tensor& weight, double eps,
    const MaybeTensor& vectors, const MaybeTensor& index, const MaybeTensor& coefficient,
    const MaybeTensor& modes, double weight_offset) {
  Tensor out = empty_dense_like(residual);
  Tensor residual_out = empty_dense_like(residual);
  Tensor inverse_rms = empty_inverse_rms(residual);
  const SteerNormInputs inputs(x, residual, &weight, {vectors, index, coefficient, modes});
  const SteerNormArgs args = inputs.into(residual_out, &out, eps, weight_offset, &inverse_rms);
  const Queue queue(residual);
  launch_steer_norm(args, queue.device, queue.stream);
  return {std::move(out), std::move(residual_out), std::move(inverse_rms)};
}

void steer_add_rms_norm_by_table(const Tensor& x, const Tensor& residual, const Tensor& weight,
                                 double eps, double weight_offset, int64_t table) {
  const SteerNormArgs args = args_by_table(x, residual, weight, eps, weight_offset, table);
  const Queue queue(residual);
  launch_steer_norm(args, queue.device, queue.stream);
}

Tensor steer_add(const MaybeTensor& x, const Tensor& residual, const MaybeTensor& vectors,
                 const MaybeTensor& index, const MaybeTensor& coefficient,
                 const MaybeTensor& modes) {
  Tensor residual_out = empty_dense_like(residual);
  const SteerNormInputs inputs(x, residual, nullptr, {vectors, index, coefficient, modes});
  const SteerNormArgs args = inputs.into(residual_out);
  const Queue queue(residual);
  launch_steer_norm(args, queue.device, queue.stream);
  return residual_out;
}

void run_backward(const BackwardTensors& tensors, const Tensor& gradient) {
  // Freed when this returns, as that of the moments.
  const BackwardLaunch launch = plan_backward(tensors.args());
  const Tensor scratch = empty_dense(gradient, &launch.scratch_bytes, 1, aoti_torch_dtype_uint8());
  const Queue queue(gradient);
  launch_backward(tensors.args(), launch, scratch.data_ptr(), queue.stream);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> steer_add_rms_norm_backward(
    const Tensor& grad_out, const MaybeTensor& grad_residual, const Tensor& h, const Tensor& weight,
    const Tensor& inverse_rms, double weight_offset, const MaybeTensor& vectors,
    const MaybeTensor& index, const MaybeTensor& coefficient, MaybeDtype x_dtype, bool for_h,
    bool for_weight, bool for_vectors, bool for_coefficient) {
  const GivenToNorm norm{grad_out, h, weight, inverse_rms, weight_offset};
  BackwardTensors tensors(&norm, grad_residual, {vectors, index, coefficient, std::nullopt},
                          {x_dtype, for_h, for_weight, for_vectors, for_coefficient}, empty_dense);
  run_backward(tensors, grad_out);
  return std::move(tensors).results();
}

std::tuple<Tensor, Tensor> steer_add_backward(const Tensor& grad, const Tensor& vectors,
                                              const Tensor& index, const Tensor& coefficient,
                                              bool for_vectors, bool for_coefficient) {
  BackwardTensors tensors(nullptr, grad, {vectors, index, coefficient, std::nullopt},
                          {std::nullopt, false, false, for_vectors, for_coefficient}, empty_dense);
  run_backward(tensors, grad);
  auto results = std::move(tensors).results();
  return {std::get<3>(std::move(results)), std::get<4>(std::move(results))};
}

void accumulate_moments(const Tensor& x, const MaybeTensor& group, const Tensor& count,
                        const Tensor& mean, const Tensor& m2) {
  const MomentsInputs inputs(x, group);
  const MomentsArgs args = inputs.into(count, mean, m2);
  if (args.tokens == 0) return;
  // Freed when this returns, while the kernels may still wait: torch's allocator gives it only to
  // later work of the same stream.
  const MomentsLaunch launch = plan_moments(args);
  const Tensor scratch = empty_dense(x, &launch.scratch_doubles, 1, aoti_torch_dtype_float64());
  const Queue queue(x);
  launch_moments(args, launch, static_cast<double*>(scratch.data_ptr()), queue.stream);
}

}  // namespace
}  // namespace faststeer

STABLE_TORCH_LIBRARY_IMPL(faststeer, CUDA, m) {
  m.impl("steer_add_rms_norm", TORCH_BOX(&faststeer::steer_add_rms_norm));
  m.impl("steer_add_rms_norm.out", TORCH_BOX(&faststeer::steer_add_rms_norm_out));
  m.impl("steer_add_rms_norm_by_table", TORCH_BOX(&faststeer::steer_add_rms_norm_by_table));
  m.impl("set_entry_table", TORCH_BOX(&faststeer::set_entry_table));
  m.impl("drop_entry_table", TORCH_BOX(&faststeer::drop_entry_table));
  m.impl("steer_add", TORCH_BOX(&faststeer::steer_add));
  m.impl("steer_add_rms_norm_autograd", TORCH_BOX(&faststeer::steer_add_rms_norm_for_backward));
  m.impl("steer_add_autograd", TORCH_BOX(&faststeer::steer_add));
  m.impl("steer_add_rms_norm_backward", TORCH_BOX(&faststeer::steer_add_rms_norm_backward));
  m.impl("steer_add_backward", TORCH_BOX(&faststeer::steer_add_backward));
  m.impl("accumulate_moments", TORCH_BOX(&faststeer::accumulate_moments));
}
