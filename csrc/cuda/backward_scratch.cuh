// What the kernels of a backward pass leave to each other: its blocks, its segments, its scratch.
#pragma once

#include "cuda/backward_plan.h"
#include "cuda/entries.cuh"

namespace faststeer {

// Scratch, the widest type first: of the vectors' gradients [splits, S, stride] doubles; of the
// weight's [blocks, stride]; the segments of one wave; and the coefficients' [segments, K] where a
// setting has several segments, or else these are the results.
struct BackwardScratch {
  double* vectors;
  float* weight;
  float* segments;
  float* dots;

  __host__ __device__ BackwardScratch(void* memory, const BackwardArgs& args,
                                      const BackwardLaunch& launch)
      : vectors(static_cast<double*>(memory)),
        weight(reinterpret_cast<float*>(
            vectors + (launch.vectors ? launch.splits * args.stored * launch.stride : 0))),
        segments(weight + (args.grad_weight.data != nullptr ? launch.blocks * launch.stride : 0)),
        dots(args.grad_coefficient) {
    if (args.grad_coefficient == nullptr || args.entries == 0 || launch.parts == 1) return;
    dots = segments + launch.blocks_per_wave * launch.settings_per_block * launch.stride;
  }
};

// The rows of one block, and its first segment.
struct BlockRows {
  int64_t begin, end, segment;

  __device__ BlockRows(const BackwardArgs& args, const BackwardLaunch& launch, int64_t block) {
    if (launch.parts == 1) {
      begin = block * launch.rows_per_block;
      end = min(args.tokens, begin + launch.rows_per_block);
      segment = block * launch.settings_per_block;
      return;
    }
    const int64_t per_setting = args.entries > 0 ? args.tokens_per_setting : args.tokens;
    const int64_t first = block / launch.parts * per_setting;
    begin = first + block % launch.parts * launch.rows_per_block;
    end = min(first + per_setting, begin + launch.rows_per_block);
    segment = block;
  }
};

// Whether row n is the last of its segment in a block that ends with row `end` - 1.
__device__ inline bool ends_segment(const BackwardArgs& args, const BackwardLaunch& launch,
                                    int64_t n, int64_t end) {
  if (n + 1 == end) return true;
  return launch.parts == 1 && (n + 1) % args.tokens_per_setting == 0;
}

// Where one segment's sum and dots go. A kernel cannot raise: `unknown` says that an id is of no
// vector, which makes the sum NaN, and so all gradients of the setting's entries.
struct Segment {
  int64_t setting;
  float* sum;
  float* dots;
  bool unknown = false;

  __device__ Segment(const BackwardArgs& args, const BackwardLaunch& launch,
                     const BackwardScratch& scratch, int64_t segment)
      : setting(segment / launch.parts),
        sum(scratch.segments +
            (segment - launch.first_block * launch.settings_per_block) * launch.stride),
        dots(args.grad_coefficient == nullptr ? nullptr : scratch.dots + segment * args.entries) {
    for (int64_t k = 0; k < args.entries; ++k) {
      const int32_t id = id_of(args, k);
      unknown = unknown || id < -1 || id >= args.stored;
    }
  }
  __device__ int32_t id_of(const BackwardArgs& args, int64_t k) const {
    return __ldg(args.index + setting * args.entries + k);
  }
};

constexpr int kDots = 4;  // that one barrier sums over a block

// The dot of a segment with each of its vectors: partial(id) is this thread's part of one. `sums`
// is as in block_sum, one half for each barrier in turn.
template <class Partial>
__device__ inline void dot_with_vectors(const BackwardArgs& args, const Segment& segment,
                                        float (&sums)[2][kDots][kWarp], int& turn,
                                        const Partial& partial) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
#pragma unroll 1
  for (int64_t first = 0; first < args.entries; first += kDots) {
    const int count = static_cast<int>(min(int64_t{kDots}, args.entries - first));
    turn ^= 1;
#pragma unroll 1
    for (int b = 0; b < count; ++b) {
      const int32_t id = segment.id_of(args, first + b);
      float dot = id == -1 ? 0.0f : __uint_as_float(0x7fc00000u);
      if (!segment.unknown && id >= 0) dot = partial(id);
      dot = warp_sum(dot);
      if (lane == 0) sums[turn][b][warp] = dot;
    }
    __syncthreads();
    for (int b = warp; b < count; b += warps) {
      const float total = warp_sum(lane < warps ? sums[turn][b][lane] : 0.0f);
      if (lane == 0) segment.dots[first + b] = total;
    }
  }
}

}  // namespace faststeer
