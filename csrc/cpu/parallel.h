// Checked arguments, run on the CPU's cores.
#pragma once

#include "common/kernel_args.h"

namespace faststeer {

// Throw std::invalid_argument, before anything is written, where `index` holds no row of vectors or
// `group` no group.
void run_steer_norm(const SteerNormArgs& args);
void run_moments(const MomentsArgs& args);

}  // namespace faststeer
