// In place of csrc/cuda/launch.cuh: the launchers compile unmodified and start fibres.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/launch_plan.h"
#include "fibres.h"

namespace faststeer {

// What a request says of the GPU that is not there, and what was started on it.
struct StandIn {
  int multiprocessors;
  unsigned most_blocks;            // in a grid of steer_norm
  int64_t kernel_of_barrier = -1;  // whose barrier is left out, counted as `started`; -1 for all
  std::vector<std::string> started;
};
inline StandIn stand_in;

inline Gpu gpu_of(int) { return {stand_in.multiprocessors, 2048, 228 * 1024}; }  // as on an H100
inline int shared_limit(int) { return fibres::kMostShared; }
inline bool has_programmatic_launch(int) { return true; }
inline bool overlap_is_wanted() { return true; }

std::string name_of(void* kernel);

template <class... Parameters, class... Arguments>
void start_grid(void (*kernel)(Parameters...), dim3 grid, dim3 block, int shared_bytes,
                bool overlap, const Arguments&... arguments) {
  const unsigned threads = block.x * block.y * block.z;
  const int64_t number = static_cast<int64_t>(stand_in.started.size());
  stand_in.started.push_back(name_of(reinterpret_cast<void*>(kernel)) + '\t' +
                             std::to_string(grid.x) + '\t' + std::to_string(threads) + '\t' +
                             std::to_string(shared_bytes));
  const int64_t dropped = fibres::schedule.dropped_barrier;
  if (stand_in.kernel_of_barrier >= 0 && stand_in.kernel_of_barrier != number) {
    fibres::schedule.dropped_barrier = -1;
  }
  fibres::run(grid, block, shared_bytes, overlap, [&] { kernel(arguments...); });
  fibres::schedule.dropped_barrier = dropped;
}

template <class... Parameters, class... Arguments>
void start(void (*kernel)(Parameters...), dim3 grid, dim3 block, int shared_bytes, void*,
           bool overlap, const Arguments&... arguments) {
  start_grid(kernel, grid, block, shared_bytes, overlap, arguments...);
}

// As if a grid held fewer blocks: the launcher makes several grids only from 2^31 rows on.
template <class Kernel>
void start(Kernel kernel, dim3 grid, dim3 block, int shared_bytes, void*, bool overlap,
           const SteerNormArgs& args, const SteerNormLaunch& planned) {
  SteerNormLaunch launch = planned;
  for (unsigned left = grid.x; left > 0; left -= grid.x) {
    grid.x = std::min(left, stand_in.most_blocks);
    start_grid(kernel, grid, block, shared_bytes, overlap, args, launch);
    launch.first_block += grid.x;
  }
}

}  // namespace faststeer
