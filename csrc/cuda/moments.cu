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

void launch_moments(const MomentsArgs& args, double* scratch, void* stream) {
  if (args.tokens == 0) return;
  constexpr int64_t kMaxBlocksYZ = 65535;  // along y and z
  const MomentsLaunch launch = plan_moments(args);
  if (args.groups > kMaxBlocksYZ || launch.column_tiles > kMaxBlocksYZ) {
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
