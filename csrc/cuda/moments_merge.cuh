// The merge of the moments: what the tile pass found in each split of the rows, added to the state.
//
// Merged in float64 and in an order that the shape alone decides, so that equal rows give equal
// bits: 32 splits at a time, four neighbours in each of a column's eight threads, four threads at a
// time, and the two halves with what was there. A thread requests all that it needs of its splits
// before it looks at any of it: with a test of a split's count in front of its mean, each split
// cost two latencies of the L2 cache, one after the other.
#pragma once

#include "cuda/launch_plan.h"
#include "cuda/packed_access.cuh"

namespace faststeer {

constexpr int kMomentsThreads = kWarp * kMomentsLanes;
constexpr int kMergedAtOnce = 4;  // more samples would not fit into 64 registers
static_assert(kMergedSplits == kMergedAtOnce * kMomentsLanes);
static_assert(kMomentsLanes == 2 * kMergedAtOnce);

// What the tile pass of a step leaves to its merge: means and centred moments [splits, G, H],
// counts [splits, G], and the counts [G] from before the step, which the merge has to read while it
// writes the new ones. Of a split without rows of a group there is the count alone.
struct MomentsScratch {
  double* mean;
  double* m2;
  double* count;
  double* count_before;

  __host__ __device__ MomentsScratch(double* memory, const MomentsStep& step, int64_t hidden)
      : mean(memory),
        m2(mean + step.splits * step.groups * hidden),
        count(m2 + step.splits * step.groups * hidden),
        count_before(count + step.splits * step.groups) {}
};

// Moments of one column of some rows; of no rows, mean and m2 are anything.
struct ColumnMoments {
  double count, mean, m2;
};

// Of a number of rows, to the last bit or two, and 0 of none. A division is a call of a function,
// around which not all of what a thread holds stays in registers.
__device__ inline double reciprocal(double count) {
  if (count == 0.0) return 0.0;
  double guess = static_cast<double>(__fdividef(1.0f, static_cast<float>(count)));
#pragma unroll
  for (int i = 0; i < 2; ++i) guess = fma(guess, fma(-count, guess, 1.0), guess);
  return guess;
}

// Of all samples together: distances from the mean of the first that has rows lose no digits, as
// squares of the values would, and a constant column keeps exactly its mean.
template <int kSamples>
__device__ inline ColumnMoments merged(const ColumnMoments (&samples)[kSamples]) {
  double count = 0.0, shift = 0.0;
#pragma unroll
  for (int i = 0; i < kSamples; ++i) {
    if (count == 0.0) shift = samples[i].mean;
    count += samples[i].count;
  }
  double sum = 0.0;
#pragma unroll
  for (int i = 0; i < kSamples; ++i) {
    const double moved = samples[i].count * (samples[i].mean - shift);
    sum += samples[i].count > 0.0 ? moved : 0.0;
  }
  const double mean = shift + sum * reciprocal(count);
  double m2 = 0.0;
#pragma unroll
  for (int i = 0; i < kSamples; ++i) {
    const double apart = samples[i].mean - mean;
    const double own = samples[i].m2 + samples[i].count * apart * apart;
    m2 += samples[i].count > 0.0 ? own : 0.0;
  }
  return {count, mean, m2};
}

// Grid: column blocks, groups of the step. Block: 32 columns, kMomentsLanes threads for each.
__global__ void __launch_bounds__(kMomentsThreads, 4)
    merge_moments(const __grid_constant__ MomentsArgs args,
                  const __grid_constant__ MomentsStep step, double* memory) {
  __shared__ ColumnMoments lanes[kMomentsLanes][kWarp], halves[2][kWarp];
  const MomentsScratch scratch(memory, step, args.hidden);
  const int x = static_cast<int>(threadIdx.x), lane = static_cast<int>(threadIdx.y);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + x;
  const int64_t readable = min(column, args.hidden - 1);
  const int64_t of_step = blockIdx.y;
  const int64_t group = step.first_group + of_step;
  const int64_t at = group * args.hidden + readable;
  const ColumnMoments before{scratch.count_before[of_step], args.mean[at], args.m2[at]};
  ColumnMoments state{};
#pragma unroll 1
  for (int64_t first = 0; first < step.splits; first += kMergedSplits) {
    const int64_t split = first + lane * kMergedAtOnce;
    const int left = static_cast<int>(min(step.splits - split, int64_t{kMergedAtOnce}));
    int64_t partial = min(split, step.splits - 1) * step.groups + of_step;
    int64_t value = partial * args.hidden + readable;
    ColumnMoments own[kMergedAtOnce];
#pragma unroll
    for (int i = 0; i < kMergedAtOnce; ++i) {
      own[i] = {scratch.count[partial], scratch.mean[value], scratch.m2[value]};
      if (i >= left) own[i].count = 0.0;
      if (i + 1 >= left) continue;  // the last split is read again, rather than branched around
      partial += step.groups;
      value += step.groups * args.hidden;
    }
    lanes[lane][x] = merged(own);
    __syncthreads();
    if (lane < 2) {
#pragma unroll
      for (int i = 0; i < kMergedAtOnce; ++i) own[i] = lanes[lane * kMergedAtOnce + i][x];
      halves[lane][x] = merged(own);
    }
    __syncthreads();
    if (lane > 0) continue;
    const ColumnMoments all[3] = {first == 0 ? before : state, halves[0][x], halves[1][x]};
    state = merged(all);
  }
  if (lane > 0 || column >= args.hidden || state.count == before.count) return;
  args.mean[at] = state.mean;
  args.m2[at] = state.m2;
  if (column == 0) args.count[group] = static_cast<int64_t>(state.count);
}

}  // namespace faststeer
