// The sums over rows that blocks left, brought together in a fixed order.
#pragma once

#include "cuda/backward_scratch.cuh"

namespace faststeer {

// The entries of one wave's segments that name one vector, in order.
struct EntryList {
  int64_t segment[kScatterThreads];
  float coefficient[kScatterThreads];
  int counts[kScatterThreads / kWarp];

  // All threads call this with an entry each; it ends in a barrier. Returns how many match.
  __device__ int fill(bool match, int64_t its_segment, float its_coefficient) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const unsigned votes = __ballot_sync(kAllLanes, match);
    if (lane == 0) counts[warp] = __popc(votes);
    __syncthreads();  // the list has been read, too
    int at = __popc(votes & ((1u << lane) - 1)), all = 0;
#pragma unroll
    for (int w = 0; w < kScatterThreads / kWarp; ++w) {
      if (w < warp) at += counts[w];
      all += counts[w];
    }
    if (match) {
      segment[at] = its_segment;
      coefficient[at] = its_coefficient;
    }
    __syncthreads();
    return all;
  }
};

// Adds coefficient * segment to the vectors' gradients, for the segments of one wave: one vector
// per block, and no atomics. Grid: column tiles times S, splits of the segments.
__global__ void __launch_bounds__(kScatterThreads)
    scatter_segments(const __grid_constant__ BackwardArgs args,
                     const __grid_constant__ BackwardLaunch launch, void* memory) {
  constexpr int kRun = 32;  // terms that meet in float32
  __shared__ EntryList list;
  const BackwardScratch scratch(memory, args, launch);
  const int64_t vector = blockIdx.x % args.stored;
  const int64_t column =
      static_cast<int64_t>(blockIdx.x / args.stored) * kScatterColumns + 4 * threadIdx.x;
  const int64_t base = launch.first_block * launch.settings_per_block;
  const int64_t segments =
      min(launch.segments - base, launch.blocks_per_wave * launch.settings_per_block);
  const int64_t per_split = (segments + launch.splits - 1) / launch.splits;
  const int64_t end = min(segments, (blockIdx.y + 1) * per_split) * args.entries;
  double total[4] = {};
  float run[4] = {};
  int in_run = 0;
  const auto flush = [&] {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      total[j] += static_cast<double>(run[j]);
      run[j] = 0.0f;
    }
    in_run = 0;
  };
#pragma unroll 1
  for (int64_t first = blockIdx.y * per_split * args.entries; first < end;
       first += kScatterThreads) {
    const int64_t entry = first + threadIdx.x;
    const int64_t segment = entry < end ? entry / args.entries : 0;
    const int64_t setting = (base + segment) / launch.parts;
    const int64_t at = setting * args.entries + entry % args.entries;
    const bool match = entry < end && __ldg(args.index + at) == vector;
    const int found = list.fill(match, segment, match ? __ldg(args.coefficient + at) : 0.0f);
    if (column >= args.hidden) continue;
#pragma unroll 4
    for (int i = 0; i < found; ++i) {
      const float4 sum = *reinterpret_cast<const float4*>(scratch.segments +
                                                          list.segment[i] * launch.stride + column);
      const float c = list.coefficient[i];
      run[0] = fmaf(c, sum.x, run[0]);
      run[1] = fmaf(c, sum.y, run[1]);
      run[2] = fmaf(c, sum.z, run[2]);
      run[3] = fmaf(c, sum.w, run[3]);
      if (++in_run == kRun) flush();
    }
  }
  if (column >= args.hidden) return;
  flush();
  double* to = scratch.vectors + (blockIdx.y * args.stored + vector) * launch.stride + column;
#pragma unroll
  for (int j = 0; j < 4; ++j) to[j] = launch.first_block == 0 ? total[j] : to[j] + total[j];
}

// `count` rows of partial sums for each line of a result.
template <class T>
struct Partials {
  const T* from;
  int64_t line;  // from the partial sums of one line to those of the next
  int64_t row;   // from one row of partial sums to the next
  int64_t count;
  int64_t columns;
};

__device__ inline void store_sum(const Rows& to, int64_t n, int64_t j, double value) {
  const float rounded = static_cast<float>(value);
  switch (to.dtype) {
    case DType::bfloat16:
      row_of<__nv_bfloat16>(to, n)[j] = narrow<__nv_bfloat16>(rounded);
      break;
    case DType::float16:
      row_of<__half>(to, n)[j] = narrow<__half>(rounded);
      break;
    default:
      row_of<float>(to, n)[j] = rounded;
  }
}

// Grid: column tiles times lines. Block: 32 columns, kMergeLanes rows at a time.
template <class T>
__global__ void __launch_bounds__(kWarp* kMergeLanes)
    merge_sums(const __grid_constant__ Partials<T> partials, const __grid_constant__ Rows to) {
  __shared__ double sums[kMergeLanes][kWarp];
  const int64_t tiles = (partials.columns + kWarp - 1) / kWarp;
  const int64_t line = blockIdx.x / tiles;
  const int64_t column = blockIdx.x % tiles * kWarp + threadIdx.x;
  const T* from = partials.from + line * partials.line + column;
  double sum = 0.0;
  if (column < partials.columns) {
#pragma unroll 4
    for (int64_t i = threadIdx.y; i < partials.count; i += kMergeLanes) {
      sum += static_cast<double>(from[i * partials.row]);
    }
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= partials.columns) return;
#pragma unroll
  for (int lane = 1; lane < kMergeLanes; ++lane) sum += sums[lane][threadIdx.x];
  store_sum(to, line, column, sum);
}

}  // namespace faststeer
