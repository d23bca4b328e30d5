// steer_add_rms_norm into given CPU tensors, called from Python without torch's dispatcher.
#pragma once

#include <pybind11/pybind11.h>

namespace faststeer {

// Adds `steer_add_rms_norm_out(x, residual, weight, eps, vectors, index, coefficient, out,
// residual_out) -> bool` to the module. False: nothing was done, because an argument is no plain
// CPU tensor with evenly spaced rows; the op of the same name takes those.
void add_direct_call(pybind11::module_& module);

}  // namespace faststeer
