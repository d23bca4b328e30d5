#include "cuda/launch_plan.h"

#include <algorithm>

namespace faststeer {
namespace {

constexpr int64_t kWarp = 32;
constexpr int64_t kMaxThreads = 1024;
// What a multiprocessor holds of threads with the 64 registers that the kernels are limited to.
constexpr int64_t kResidentThreads = 1024;
// Fewer threads than this leave a row's loads to too few schedulers.
constexpr int64_t kMinThreads = 128;
constexpr int64_t kMaxRowsPerBlock = 16;
constexpr int64_t kMaxBlocksYZ = 65535;  // of a grid, along y and z

int64_t ceil_div(int64_t value, int64_t step) { return (value + step - 1) / step; }

int element_size(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

bool aligned(const Rows& rows, int64_t pack_width) {
  const int64_t bytes = std::min<int64_t>(16, pack_width * element_size(rows.dtype));
  return reinterpret_cast<uintptr_t>(rows.data) % static_cast<uintptr_t>(bytes) == 0 &&
         rows.stride * element_size(rows.dtype) % bytes == 0;
}

// A mix of dtypes that the packed kernel was built for.
bool has_kernel(const SteerNormArgs& args) {
  const DType own = args.residual.dtype;
  const auto own_or_none = [&](const Rows& rows) {
    return rows.data == nullptr || rows.dtype == own;
  };
  const bool x = own_or_none(args.x) || own == DType::float32;
  const bool vectors =
      args.entries == 0 || own_or_none(args.vectors) || args.vectors.dtype == DType::float32;
  return x && own_or_none(args.weight) && vectors;
}

// Few rows want all loads of a row at once. Many want the most bytes of many rows in flight, for
// which two packs per thread do as much as four would with twice the registers.
int packs_per_thread(int64_t row_packs, bool few) {
  if (row_packs > kMaxThreads) return 2;
  return few || row_packs < 2 * kMinThreads ? 1 : 2;
}

}  // namespace

SteerNormProblem problem_of(const SteerNormArgs& args, int multiprocessors) {
  const int size = element_size(args.residual.dtype);
  const int64_t width = 16 / size;
  bool packs = args.hidden % width == 0 && has_kernel(args);
  for (const Rows& rows :
       {args.residual, args.x, args.weight, args.vectors, args.out, args.residual_out}) {
    packs = packs && (rows.data == nullptr || aligned(rows, width));
  }
  return {args.tokens,           args.hidden, size,
          args.entries,          args.stored, args.tokens_per_setting,
          args.modes != nullptr, packs,       multiprocessors};
}

SteerNormLaunch plan_steer_norm(const SteerNormProblem& problem) {
  SteerNormLaunch launch{};
  const int64_t width = 16 / problem.element_size;
  const int64_t row_packs = ceil_div(problem.hidden, width);
  launch.packed = problem.aligned && row_packs <= 2 * kMaxThreads;
  launch.share = 1.0f / static_cast<float>(problem.hidden);
  launch.rows_per_block = 1;
  if (!launch.packed) {
    launch.threads =
        static_cast<int>(std::min(kMaxThreads, ceil_div(problem.hidden, kWarp) * kWarp));
    if (problem.modes && problem.entries > 0) {
      launch.steering = Steering::modes;
      launch.shared_bytes = problem.hidden * 4;
    }
  } else {
    const bool few = problem.tokens <= problem.multiprocessors;
    launch.packs = packs_per_thread(row_packs, few);
    launch.threads = static_cast<int>(ceil_div(ceil_div(row_packs, launch.packs), kWarp) * kWarp);
    const int64_t resident =
        problem.multiprocessors * std::max<int64_t>(1, kResidentThreads / launch.threads);
    const int64_t shared = launch.threads * launch.packs * width * 4;
    if (problem.entries == 0) {
      launch.steering = Steering::none;
    } else if (problem.modes) {
      launch.steering = Steering::modes;
    } else if (problem.entries == 1) {
      launch.steering = problem.stored == 1 ? Steering::single : Steering::direct;
    } else if (problem.tokens_per_setting == 1 || problem.tokens <= resident ||
               shared > kSharedLimit) {
      launch.steering = Steering::direct;
    } else {
      launch.steering = Steering::kept;
      launch.shared_bytes = shared;
      launch.rows_per_block = std::min(kMaxRowsPerBlock, ceil_div(problem.tokens, resident));
    }
  }
  launch.blocks = ceil_div(problem.tokens, launch.rows_per_block);
  return launch;
}

MomentsLaunch plan_moments(const MomentsArgs& args, int64_t scratch_bytes) {
  // 32 splits fill a GPU from 8,192 rows of 4096 on; more rows than 1,024 would cost accuracy.
  constexpr int64_t kFewestSplits = 32;
  MomentsLaunch launch{};
  const int64_t width = 16 / element_size(args.x.dtype);
  launch.packed = args.hidden % width == 0 && aligned(args.x, width);
  launch.rows_per_split =
      std::min<int64_t>(kSplitRows, ceil_div(ceil_div(args.tokens, kFewestSplits), kWarp) * kWarp);
  launch.splits = ceil_div(args.tokens, launch.rows_per_split);
  launch.column_tiles = ceil_div(args.hidden, kWarp * width);
  // Fewer groups at a time change no bit and read no row twice. Fewer splits leave the order of the
  // merge as it is where they are whole rounds of it.
  const int64_t per_split = 2 * args.hidden + 1;
  const int64_t room = scratch_bytes / int64_t{sizeof(double)};
  const int64_t rounds = std::max<int64_t>(1, (room - 1) / (per_split * kMergedSplits));
  launch.splits_per_step = std::min(launch.splits, rounds * kMergedSplits);
  const int64_t per_group = launch.splits_per_step * per_split + 1;
  launch.groups_per_step =
      std::clamp<int64_t>(room / per_group, 1, std::min(args.groups, kMaxBlocksYZ));
  launch.scratch_doubles = launch.groups_per_step * per_group;
  return launch;
}

}  // namespace faststeer
