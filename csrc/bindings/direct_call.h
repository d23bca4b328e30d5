// The ops on CPU tensors, called from Python without torch's dispatcher.
#pragma once

#include <pybind11/pybind11.h>

namespace faststeer {

// Adds these to the module. Each does nothing, and says so by False or None, where the op of its
// name has to be called instead: an argument is no plain CPU tensor with evenly spaced rows, the
// call is large, or something has to see it (a tracer, a mode, the profiler). None of them computes
// gradients.
//
//   steer_add_rms_norm_out(x, residual, weight, eps, vectors, index, coefficient, modes,
//                          weight_offset, out, residual_out) -> bool
//   steer_add_rms_norm(x, residual, weight, eps, vectors, index, coefficient, modes,
//                      weight_offset) -> (out, residual_out) or None
//   steer_add(x, residual, vectors, index, coefficient, modes) -> residual_out or None
//   steer_add_norm(norm, types, epsilon, weight_offset, x, residual, entries, overwrite)
//       -> (out, residual_out) or None: steer_add_rms_norm with a norm's own weight and epsilon;
//       None with grad enabled, and where calling `norm` could do anything else than norm. Calls
//       that are large, or on a GPU, go to the op from here. The caller asks `is_watched`. With
//       `overwrite`, residual_out may be `residual`, changed.
//   is_watched() -> bool: whether a tracer, a mode or the profiler has to see each op.
//   run_plainly(first, second) -> bool: of both modules, as runs_plainly in module_state.h.
void add_direct_calls(pybind11::module_& module);

}  // namespace faststeer
