// Which instruction set runs, decided once, at the first call.
#pragma once

#include <string>
#include <vector>

#include "cpu/backward.h"
#include "cpu/moments.h"
#include "cpu/steer_norm.h"

namespace faststeer {

struct Isa {
  const char* name;
  SteerNormKernel steer_norm;
  MomentsKernel moments;
  BackwardKernels backward;
};

// The fastest build this processor can run, or the one that FASTSTEER_ISA names.
// Throws std::invalid_argument where that name is unknown or the processor lacks it.
const Isa& current_isa();

// Names of the builds in this library that this processor can run, fastest first.
std::vector<std::string> available_isas();

}  // namespace faststeer
