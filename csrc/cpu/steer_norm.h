// The CPU kernel behind steer_add_rms_norm and steer_add: what it is told, and its builds.
//
// This header is read by code compiled for AVX-512 and by code compiled for any x86: it holds
// plain data only, because an inline function here could be emitted with the wrong ISA.
#pragma once

#include <stdint.h>

namespace faststeer {

enum class DType : int32_t { float32, bfloat16, float16 };

// Rows of a tensor whose last dimension is dense. `stride` counts elements, not bytes.
struct Rows {
  void* data;
  int64_t stride;
  DType dtype;
};

struct SteerNormArgs {
  int64_t hidden;
  Rows residual;  // [N, H]
  Rows x;         // [N, H] or no data
  Rows weight;    // [H] or no data: then the residual is updated and nothing is normed
  float eps;
  Rows vectors;                // [S, H] or no data
  const int32_t* index;        // [R, K], -1 for none
  const float* coefficient;    // [R, K]
  int64_t entries;             // K
  int64_t tokens_per_setting;  // N / R: so many consecutive rows share a line of `index`
  Rows out;                    // [N, H] or no data, as `weight`
  Rows residual_out;           // [N, H], may be `residual` itself
};

// No kernel's vector is wider than this many floats.
constexpr int64_t kMaxVectorWidth = 32;

// Rows `begin` to `end`. `scratch` holds `hidden` + kMaxVectorWidth floats, this call's alone.
using SteerNormKernel = void (*)(const SteerNormArgs&, int64_t begin, int64_t end, float* scratch);

void steer_norm_portable(const SteerNormArgs&, int64_t begin, int64_t end, float* scratch);
void steer_norm_avx2(const SteerNormArgs&, int64_t begin, int64_t end, float* scratch);
void steer_norm_avx512(const SteerNormArgs&, int64_t begin, int64_t end, float* scratch);

}  // namespace faststeer
