// The CPU kernel behind steer_add_rms_norm and steer_add, once per instruction set.
#pragma once

#include "common/kernel_args.h"

namespace faststeer {

// No kernel's vector is wider than this many floats.
constexpr int64_t kMaxVectorWidth = 32;

// Rows `begin` to `end`. `scratch` is this call's alone: room for a sum of entries where there are
// several, and for a row more where there are modes, each of `hidden` + kMaxVectorWidth floats.
using SteerNormKernel = void (*)(const SteerNormArgs&, int64_t begin, int64_t end, float* scratch);

void steer_norm_portable(const SteerNormArgs&, int64_t begin, int64_t end, float* scratch);
void steer_norm_avx2(const SteerNormArgs&, int64_t begin, int64_t end, float* scratch);
void steer_norm_avx512(const SteerNormArgs&, int64_t begin, int64_t end, float* scratch);

}  // namespace faststeer
