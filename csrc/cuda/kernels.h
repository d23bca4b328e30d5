// Checked arguments, run on a stream of the current device.
#pragma once

#include "common/kernel_args.h"
#include "cuda/backward_plan.h"
#include "cuda/launch_plan.h"

namespace faststeer {

// Nothing here waits for the device or allocates. Throws std::runtime_error where CUDA refuses the
// launch, and std::invalid_argument for rows with modes that no block has room for; before anything
// is written. Values of `index` and `group` cannot be checked without waiting: an id that no vector
// has makes its rows NaN, a group that is none is skipped.
void launch_steer_norm(const SteerNormArgs& args, int device, void* stream);
// What launch_steer_norm does where vectors have modes.
void launch_steer_norm_modes(const SteerNormArgs& args, const SteerNormLaunch& launch,
                             void* stream);
// `launch` is a plan of `args`, and `scratch` holds its scratch_doubles.
void launch_moments(const MomentsArgs& args, const MomentsLaunch& launch, double* scratch,
                    void* stream);
// `launch` is planned for these arguments; `scratch` holds its scratch_bytes, aligned to 16 bytes.
void launch_backward(const BackwardArgs& args, const BackwardLaunch& launch, void* scratch,
                     void* stream);

}  // namespace faststeer
