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
  std::optional<View> x, weight, out, vectors, index, coefficient, modes;
  double eps = 0.0;
  double weight_offset = 0.0;
};

struct MomentsCall {
  View x, count, mean, m2;
  std::optional<View> group;
};

// Throw std::invalid_argument, before anything is written, for a call that does not fit together or
// whose outputs overlap an input; `x` and `residual` may be overwritten in place. Values of `index`
// and `group` are not read: they may be on a device.
SteerNormArgs checked(const SteerNormCall& call);
MomentsArgs checked(const MomentsCall& call);

}  // namespace faststeer
