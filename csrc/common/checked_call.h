// A call of an op as its tensors were given, and the checks that turn it into kernel arguments.
//
// Every op comes through here: from torch's dispatcher (bindings/register_cpu.cpp,
// bindings/register_cuda.cpp) and from a direct Python call (bindings/direct_call.cpp).
#pragma once

#include <optional>

#include "common/kernel_args.h"
#include "common/tensor_view.h"

namespace faststeer {

// `weight` and `out` are given together. Without them only the residual is updated.
struct SteerNormCall {
  View residual, residual_out;
  std::optional<View> x, weight, out, vectors, index, coefficient, modes, inverse_rms;
  double eps = 0.0;
  double weight_offset = 0.0;
};

struct MomentsCall {
  View x, count, mean, m2;
  std::optional<View> group;
};

// `grad_out`, `h`, `weight` and `inverse_rms` go together; without them, `grad_residual` is all.
// The results are fresh tensors, of shapes that are not checked again.
struct BackwardCall {
  std::optional<View> grad_out, grad_residual, h, weight, inverse_rms, vectors, index, coefficient;
  std::optional<View> grad_h, grad_x, grad_weight, grad_vectors, grad_coefficient;
  double weight_offset = 0.0;
};

// Throw std::invalid_argument, before anything is written, for a call that does not fit together or
// whose outputs overlap an input; `x` and `residual` may be overwritten in place. Values of `index`
// and `group` are not read: they may be on a device.
SteerNormArgs checked(const SteerNormCall& call);
MomentsArgs checked(const MomentsCall& call);
BackwardArgs checked(const BackwardCall& call);

}  // namespace faststeer
