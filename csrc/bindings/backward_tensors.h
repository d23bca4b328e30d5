// The tensors of one call of a backward op: what is given, and the gradients that are asked for.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <tuple>

#include "bindings/stable_tensors.h"

namespace faststeer {

using MaybeDtype = std::optional<torch::headeronly::ScalarType>;

// None of `norm` for an op without one.
struct GivenToNorm {
  const Tensor &grad_out, &h, &weight, &inverse_rms;
  double weight_offset;
};

// `x_dtype`: that of x, where it is not the residual's, and x needs a gradient.
struct WantedGradients {
  MaybeDtype x_dtype;
  bool h, weight, vectors, coefficient;
};

// A gradient that is not wanted is a tensor without elements: a schema has no optional results.
class BackwardTensors {
 public:
  using Allocate = Tensor (*)(const Tensor& like, const int64_t* sizes, int64_t dim, int32_t dtype);

  BackwardTensors(const GivenToNorm* norm, const MaybeTensor& grad_residual, const Entries& entries,
                  const WantedGradients& wanted, Allocate allocate);

  const BackwardArgs& args() const { return args_; }
  // Of h, x, weight, vectors and coefficient.
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> results() &&;

 private:
  std::optional<Input> grad_out_, grad_residual_, h_, weight_, inverse_rms_;
  std::optional<Input> vectors_, index_, coefficient_;
  std::optional<Tensor> grad_h_, grad_x_, grad_weight_, grad_vectors_, grad_coefficient_;
  Tensor like_;
  BackwardArgs args_{};
};

}  // namespace faststeer
