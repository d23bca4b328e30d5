// The merge of the moments: what the tile pass found in each split of the rows, added to the state.
//
// A thread has one column and goes through the splits in their order, in float64, so that equal
// rows give equal bits. The pass before leaves its results in scratch: means [splits, G, H],
// centred moments [splits, G, H], counts [splits, G], and the counts [G] from before the call,
// which the merge has to read while it writes the new ones.
#pragma once

#include "cuda/launch_plan.h"
#include "cuda/packed_access.cuh"

namespace faststeer {

constexpr int kMomentsThreads = kWarp * kMomentsLanes;

struct MomentsScratch {
  double* mean;
  double* m2;
  double* count;
  double* count_before;

  __host__ __device__ MomentsScratch(double* memory, const MomentsArgs& args, int64_t splits)
      : mean(memory),
        m2(mean + splits * args.groups * args.hidden),
        count(m2 + splits * args.groups * args.hidden),
        count_before(count + splits * args.groups) {}
};

// Grid: column blocks, groups.
__global__ void __launch_bounds__(kMomentsThreads)
    merge_moments(const __grid_constant__ MomentsArgs args,
                  const __grid_constant__ MomentsLaunch launch, double* memory) {
  const MomentsScratch scratch(memory, args, launch.splits);
  const int64_t group = blockIdx.y;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= args.hidden) return;
  const auto of = [&](const double* values, int64_t split) {
    return values[(split * args.groups + group) * args.hidden + column];
  };
  const auto count = [&](int64_t split) { return scratch.count[split * args.groups + group]; };

  const double before = scratch.count_before[group];
  double& mean_of_all = args.mean[group * args.hidden + column];
  double& m2_of_all = args.m2[group * args.hidden + column];
  double shift = mean_of_all;
  double total = before;
  double sum = 0.0;
  for (int64_t split = 0; split < launch.splits; ++split) {
    if (count(split) == 0.0) continue;
    if (total == 0.0) shift = of(scratch.mean, split);
    sum += count(split) * (of(scratch.mean, split) - shift);
    total += count(split);
  }
  if (total == before) return;
  const double mean = shift + sum / total;
  const double moved = before == 0.0 ? 0.0 : mean_of_all - mean;
  double m2 = before == 0.0 ? 0.0 : m2_of_all + before * moved * moved;
  for (int64_t split = 0; split < launch.splits; ++split) {
    if (count(split) == 0.0) continue;
    const double apart = of(scratch.mean, split) - mean;
    m2 += of(scratch.m2, split) + count(split) * apart * apart;
  }
  mean_of_all = mean;
  m2_of_all = m2;
  if (column == 0) args.count[group] = static_cast<int64_t>(total);
}

}  // namespace faststeer
