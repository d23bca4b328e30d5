#include "cuda/launcher.cuh"
#include "cuda/moments.cuh"
#include "cuda/run.h"

namespace faststeer {

void launch_moments(const MomentsArgs& args, double* scratch, void* stream) {
  if (args.tokens == 0) return;
  constexpr int64_t kMostBlocks = 65535;  // along y and z
  const MomentsLaunch launch = plan_moments(args);
  if (args.groups > kMostBlocks || launch.column_tiles > kMostBlocks) {
    throw std::runtime_error("accumulate_moments takes at most 65,535 groups, not " +
                             std::to_string(args.groups));
  }
  const dim3 tiles{static_cast<unsigned>(launch.splits), static_cast<unsigned>(launch.column_tiles),
                   static_cast<unsigned>(args.groups)};
  with_moments_kernel(args, launch, [&](auto kernel) {
    start(kernel, tiles, {kWarp, kMomentsLanes, 1}, 0, stream, false, args, launch, scratch);
  });
  const dim3 columns{static_cast<unsigned>((args.hidden + kMomentsThreads - 1) / kMomentsThreads),
                     static_cast<unsigned>(args.groups), 1};
  start(merge_moments, columns, {kMomentsThreads, 1, 1}, 0, stream, false, args, launch, scratch);
}

}  // namespace faststeer
