#include "bindings/backward_tensors.h"

#include <utility>

namespace faststeer {
namespace {

std::optional<Input> input(const MaybeTensor& tensor, const char* name) {
  if (!tensor.has_value()) return std::nullopt;
  return Input(*tensor, name);
}

std::optional<View> view(const std::optional<Input>& input) {
  if (!input.has_value()) return std::nullopt;
  return input->view;
}

int32_t dtype_of(const Tensor& tensor) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  return dtype;
}

int32_t dtype_of(torch::headeronly::ScalarType type) {
  switch (type) {
    case torch::headeronly::ScalarType::Float:
      return aoti_torch_dtype_float32();
    case torch::headeronly::ScalarType::BFloat16:
      return aoti_torch_dtype_bfloat16();
    case torch::headeronly::ScalarType::Half:
      return aoti_torch_dtype_float16();
    default:
      throw std::invalid_argument("x_dtype must be float32, bfloat16 or float16");
  }
}

}  // namespace

BackwardTensors::BackwardTensors(const GivenToNorm* norm, const MaybeTensor& grad_residual,
                                 const Entries& entries, const WantedGradients& wanted,
                                 Allocate allocate)
    : grad_residual_(input(grad_residual, "grad_residual")),
      vectors_(input(entries.vectors, "vectors")),
      index_(input(entries.index, "index")),
      coefficient_(input(entries.coefficient, "coefficient")) {
  BackwardCall call;
  if (norm != nullptr) {
    grad_out_.emplace(norm->grad_out, "grad_out");
    h_.emplace(norm->h, "h");
    weight_.emplace(norm->weight, "weight");
    inverse_rms_.emplace(norm->inverse_rms, "inverse_rms");
    call.weight_offset = norm->weight_offset;
  }
  call.grad_out = view(grad_out_);
  call.grad_residual = view(grad_residual_);
  call.h = view(h_);
  call.weight = view(weight_);
  call.inverse_rms = view(inverse_rms_);
  call.vectors = view(vectors_);
  call.index = view(index_);
  call.coefficient = view(coefficient_);
  checked(call);  // before anything is allocated for it

  like_ = norm != nullptr ? grad_out_->tensor : grad_residual_->tensor;
  const auto fresh = [&](std::optional<Tensor>& result, const Tensor& like, int32_t dtype,
                         const char* name) {
    result = allocate(like, like.sizes().data(), like.dim(), dtype);
    return view_of(*result, name);
  };
  if (wanted.h) call.grad_h = fresh(grad_h_, like_, dtype_of(like_), "grad_h");
  if (wanted.x_dtype) call.grad_x = fresh(grad_x_, like_, dtype_of(*wanted.x_dtype), "grad_x");
  if (wanted.weight && norm != nullptr) {
    call.grad_weight =
        fresh(grad_weight_, weight_->tensor, dtype_of(weight_->tensor), "grad_weight");
  }
  if (wanted.vectors && vectors_) {
    call.grad_vectors =
        fresh(grad_vectors_, vectors_->tensor, dtype_of(vectors_->tensor), "grad_vectors");
  }
  if (wanted.coefficient && coefficient_) {
    call.grad_coefficient = fresh(grad_coefficient_, coefficient_->tensor,
                                  aoti_torch_dtype_float32(), "grad_coefficient");
  }
  args_ = checked(call);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> BackwardTensors::results() && {
  const auto take = [&](std::optional<Tensor>& result) {
    constexpr int64_t kNone = 0;
    return result ? *std::move(result) : empty_dense(like_, &kNone, 1, dtype_of(like_));
  };
  return {take(grad_h_), take(grad_x_), take(grad_weight_), take(grad_vectors_),
          take(grad_coefficient_)};
}

}  // namespace faststeer
