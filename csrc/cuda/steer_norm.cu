#include <algorithm>

#include "cuda/launcher.cuh"
#include "cuda/run.h"
#include "cuda/steer_norm.cuh"

namespace faststeer {

void launch_steer_norm(const SteerNormArgs& given, int device, void* stream) {
  SteerNormArgs args = given;
  if (args.tokens == 0) return;
  if (args.stored == 0) args.entries = 0;  // there is nothing that an id could name
  SteerNormLaunch launch = plan_steer_norm(problem_of(args, multiprocessors(device)));
  launch.overlap = overlap_is_wanted() && has_programmatic_launch(device);
  const dim3 threads(static_cast<unsigned>(launch.threads));
  with_steer_norm_kernel(args, launch, [&](auto kernel) {
    for (; launch.first_block < launch.blocks; launch.first_block += kMaxBlocks) {
      const int64_t blocks = std::min(kMaxBlocks, launch.blocks - launch.first_block);
      start(kernel, dim3(static_cast<unsigned>(blocks)), threads, launch.shared_bytes, stream,
            launch.overlap, args, launch);
    }
  });
}

}  // namespace faststeer
