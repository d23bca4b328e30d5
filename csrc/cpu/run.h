// Checked arguments, run on the CPU's cores.
#pragma once

#include "args.h"

namespace faststeer {

// Throws std::invalid_argument, before anything is written, where `index` holds no row of vectors.
void run_steer_norm(const SteerNormArgs& args);

}  // namespace faststeer
