// The arguments of the kernels, on the CPU and on CUDA: plain data, checked before it gets here.
//
// This header is read by code compiled for AVX-512, by code compiled for any x86 and by nvcc. It
// holds no functions, because an inline function could be emitted with the wrong instruction set.
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

constexpr int kModeNumbers = 5;  // of a vector: push, pull, keep, floor, ceiling

// h = round((residual + x) + sum of entries), and with modes as faststeer/ops/reference.py says;
// out = round(h * rsqrt(mean(h^2) + eps) * (weight_offset + weight)).
struct SteerNormArgs {
  int64_t tokens;  // N
  int64_t hidden;  // H
  Rows residual;   // [N, H]
  Rows x;          // [N, H] or no data
  Rows weight;     // [H] or no data: then the residual is updated and nothing is normed
  float weight_offset;
  float eps;
  Rows vectors;                // [S, H] or no data
  const float* modes;          // [S, kModeNumbers]; or none: all vectors are added
  int64_t stored;              // S
  const int32_t* index;        // [R, K], -1 for none
  const float* coefficient;    // [R, K]
  int64_t entries;             // K
  int64_t tokens_per_setting;  // N / R: consecutive rows that share a line of `index`
  Rows out;                    // [N, H] or no data, as `weight`
  Rows residual_out;           // [N, H], may be `residual` itself
  float* inverse_rms;          // [N] or none: rsqrt(mean(h^2) + eps), for a backward pass
};

// The gradients of steer_add_rms_norm's inputs, or of the entries of steer_add; see
// `steer_add_rms_norm_backward` in faststeer/ops/reference.py. Of the last five those are written
// that have data.
struct BackwardArgs {
  int64_t tokens;            // N
  int64_t hidden;            // H
  Rows grad_out;             // [N, H] or no data: nothing was normed
  Rows grad_residual;        // [N, H] or no data
  Rows h;                    // [N, H], as the next two only with `grad_out`
  Rows weight;               // [H]
  const float* inverse_rms;  // [N]
  float weight_offset;
  Rows vectors;              // [S, H] or no data
  int64_t stored;            // S
  const int32_t* index;      // [R, K], -1 for none
  const float* coefficient;  // [R, K]
  int64_t settings;          // R
  int64_t entries;           // K
  int64_t tokens_per_setting;
  Rows grad_h;              // [N, H], the gradient of x and of the residual
  Rows grad_x;              // [N, H], the same in another dtype
  Rows grad_weight;         // [H]
  Rows grad_vectors;        // [S, H]
  float* grad_coefficient;  // [R, K]
};

// Statistics of the rows of each group, merged into what the last three hold.
struct MomentsArgs {
  int64_t tokens;        // N
  int64_t hidden;        // H
  int64_t groups;        // G
  Rows x;                // [N, H]
  const int32_t* group;  // [N], -1 to skip a row; or none: all rows are of group 0
  int64_t* count;        // [G]
  double* mean;          // [G, H]
  double* m2;            // [G, H], sums of squared distances from the mean
};

}  // namespace faststeer
