#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/moments.cuh"

namespace faststeer {
namespace {

// Calls run(kernel) with the kernel that reads the rows of this call.
template <class T, class Run>
void with_moments_of(const MomentsLaunch& launch, const Run& run) {
  if (launch.packed) return run(moments_of_splits<T, true>);
  run(moments_of_splits<T, false>);
}

template <class Run>
void with_moments_kernel(const MomentsArgs& args, const MomentsLaunch& launch, const Run& run) {
  switch (args.x.dtype) {
    case DType::bfloat16:
      return with_moments_of<__nv_bfloat16>(launch, run);
    case DType::float16:
      return with_moments_of<__half>(launch, run);
    default:
      return with_moments_of<float>(launch, run);
  }
}

}  // namespace

void launch_moments(const MomentsArgs& args, const MomentsLaunch& launch, double* scratch,
                    void* stream) {
  if (args.tokens == 0) return;
  const auto columns = static_cast<unsigned>((args.hidden + kWarp - 1) / kWarp);
  MomentsStep step{};
  for (; step.first_group < args.groups; step.first_group += step.groups) {
    step.groups = std::min(launch.groups_per_step, args.groups - step.first_group);
    for (step.first_split = 0; step.first_split < launch.splits; step.first_split += step.splits) {
      step.splits = std::min(launch.splits_per_step, launch.splits - step.first_split);
      const auto groups = static_cast<unsigned>(step.groups);
      const dim3 tiles{static_cast<unsigned>(step.splits),
                       static_cast<unsigned>(launch.column_tiles), groups};
      with_moments_kernel(args, launch, [&](auto kernel) {
        start(kernel, tiles, {kWarp, kMomentsLanes, 1}, 0, stream, false, args, launch, step,
              scratch);
      });
      start(merge_moments, {columns, groups, 1}, {kWarp, kMomentsLanes, 1}, 0, stream, false, args,
            step, scratch);
    }
  }
}

}  // namespace faststeer
