// Shared by the kernels that steer rows: how a row is laid out in a block, and its norm.
#pragma once

#include "cuda/dependent_launch.cuh"
#include "cuda/element_access.cuh"
#include "cuda/launch_plan.h"
#include "cuda/packed_access.cuh"

namespace faststeer {

// 1 / sqrt(mean + eps). The approximate instruction is within 2 ulp of float32, which no half
// shows; a float32 output may be off by 4 ulp in all, so there the slower ones are exact.
template <class R>
__device__ inline float rms_scale(const SteerNormArgs& args, const SteerNormLaunch& launch,
                                  float squares) {
  const float mean = fmaf(squares, launch.share, args.eps);
  if constexpr (sizeof(R) == 4) return 1.0f / sqrtf(mean);
  return rsqrtf(mean);
}

// For a backward pass, of row n.
__device__ inline void save_inverse_rms(const SteerNormArgs& args, int64_t n, float scale) {
  if (args.inverse_rms != nullptr && threadIdx.x == 0) args.inverse_rms[n] = scale;
}

// The norm of row n, whose residual h was updated element by element. `squares` is this thread's
// part of the sum, `sums` as in block_sum.
template <class R>
__device__ inline void norm_elements(const SteerNormArgs& args, const SteerNormLaunch& launch,
                                     int64_t n, const R* h, float squares, float (&sums)[kWarp]) {
  const float scale = rms_scale<R>(args, launch, block_sum(squares, sums));
  save_inverse_rms(args, n, scale);
  R* out = row_of<R>(args.out, n);
  each_chunk(args.hidden, [&](int64_t first) {
    float value[kChunkColumns], weight[kChunkColumns];
    load_chunk(h, first, args.hidden, value);
    load_chunk(args.weight, 0, first, args.hidden, weight);
    each_of_chunk(first, args.hidden, [&](int64_t j, int c) {
      out[j] = narrow<R>(value[c] * scale * (args.weight_offset + weight[c]));
    });
  });
}

// A row in the registers of a block: a thread has kPacks packs of it, each beside its neighbours'.
// R: the residual's, the outputs' and the weight's dtype. X: that of x.
template <class R, class X, int kPacks>
struct RowInPacks {
  static constexpr int kWidth = kPackWidth<R>;

  const SteerNormArgs& args;
  const SteerNormLaunch& launch;

  static __device__ int column(int p) {
    return static_cast<int>(threadIdx.x + p * blockDim.x) * kWidth;
  }
  __device__ bool in_row(int p) const { return column(p) < args.hidden; }

  __device__ void load_row(int64_t n, Pack<R, kWidth> (&residual)[kPacks],
                           Pack<X, kWidth> (&x)[kPacks]) const {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (!in_row(p)) continue;
      residual[p] = load<Streamed, kWidth>(row_of<const R>(args.residual, n) + column(p));
      if (args.x.data != nullptr) {
        x[p] = load<Streamed, kWidth>(row_of<const X>(args.x, n) + column(p));
      }
    }
  }

  __device__ void load_weight(Pack<R, kWidth> (&weight)[kPacks]) const {
    if (args.weight.data == nullptr) return;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (in_row(p)) weight[p] = load<Reused, kWidth>(row_of<const R>(args.weight, 0) + column(p));
    }
  }

  // residual + x of one pack.
  __device__ void add_x(const Pack<R, kWidth>& residual, const Pack<X, kWidth>& x,
                        float (&value)[kWidth]) const {
    widen(residual, value);
    if (args.x.data == nullptr) return;
    float added[kWidth];
    widen(x, added);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) value[j] = __fadd_rn(value[j], added[j]);
  }

  // As norm_elements.
  __device__ void norm(int64_t n, const Pack<R, kWidth> (&h)[kPacks],
                       const Pack<R, kWidth> (&weight)[kPacks], float squares,
                       float (&sums)[kWarp]) const {
    const float scale = rms_scale<R>(args, launch, block_sum(squares, sums));
    save_inverse_rms(args, n, scale);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (!in_row(p)) continue;
      float value[kWidth], factor[kWidth];
      widen(h[p], value);
      widen(weight[p], factor);
#pragma unroll
      for (int j = 0; j < kWidth; ++j)
        value[j] = value[j] * scale * (args.weight_offset + factor[j]);
      store(row_of<R>(args.out, n) + column(p), narrow<R>(value));
    }
  }
};

}  // namespace faststeer
