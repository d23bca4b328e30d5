// Checked arguments, run on the CPU's cores.
#pragma once

#include "common/kernel_args.h"

namespace faststeer {

// Throw std::invalid_argument, before anything is written, where `index` holds no row of vectors or
// `group` no group.
void run_steer_norm(const SteerNormArgs& args);
void run_moments(const MomentsArgs& args);
void run_backward(const BackwardArgs& args);

// Throws std::invalid_argument unless each of `count` ids is -1 or of one of the `stored` vectors.
void require_known_vectors(const int32_t* index, int64_t count, int64_t stored);

}  // namespace faststeer
