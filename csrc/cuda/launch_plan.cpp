#include "cuda/launch_plan.h"

#include <algorithm>

namespace faststeer {
namespace {

// All that decides a launch besides the call's shape. None of the thresholds has been measured.
constexpr int64_t kWarp = 32;
constexpr int64_t kMaxThreads = 1024;      // of a block
constexpr int64_t kMaxBlocksYZ = 65535;    // of a grid, along y and z
constexpr int64_t kRegisters = 65536;      // of a multiprocessor
constexpr int64_t kResidentBlocks = 32;    // on one; 16 on sm_75, of which only short rows ask more
constexpr int64_t kReservedShared = 1024;  // that CUDA takes for each block
constexpr int64_t kMinThreads = 128;       // fewer leave a row's loads to too few schedulers
constexpr int64_t kMaxRowsPerBlock = 16;   // that share kept sums
constexpr int64_t kFewestSplits = 32;      // of moments: fill a GPU from 8,192 rows of 4096 on
// Per thread, with one pack and with two: the most that any dtype takes from sm_80 on, in the steps
// of 8 in which registers are given out. sm_75 holds no more threads than 64 registers allow.
constexpr int kRegistersPerThread[][2] = {
    {32, 48},  // none
    {40, 64},  // single
    {64, 64},  // direct
    {56, 64},  // kept
    {56, 64},  // modes
};

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

// What one way to steer makes of a row, and how many such blocks the GPU holds at a time.
struct BlockShape {
  int packs;
  int64_t threads;
  int64_t shared_bytes;  // of kept sums
  int64_t places;
};

BlockShape shape_of(const SteerNormProblem& problem, Steering steering, int packs) {
  const int64_t width = 16 / problem.element_size;
  BlockShape shape{packs, 0, 0, 0};
  shape.threads = ceil_div(ceil_div(ceil_div(problem.hidden, width), packs), kWarp) * kWarp;
  if (steering == Steering::kept) shape.shared_bytes = shape.threads * packs * width * 4;
  const int64_t shared = shape.shared_bytes + kFixedShared + kReservedShared;
  const int64_t most = std::min({
      kResidentBlocks,
      problem.gpu.threads / shape.threads,
      kRegisters / (planned_registers(steering, packs) * shape.threads),
      problem.gpu.shared_bytes / shared,
  });
  shape.places = problem.gpu.multiprocessors * std::max<int64_t>(1, most);
  return shape;
}

// Few rows want all loads of a row at once, as long as all of them fit. Many want the most bytes of
// many rows in flight, for which two packs per thread do as much as four would with twice the
// registers.
int packs_per_thread(const SteerNormProblem& problem, Steering steering) {
  const int64_t row_packs = ceil_div(problem.hidden, 16 / problem.element_size);
  if (row_packs > kMaxThreads) return 2;
  if (row_packs < 2 * kMinThreads) return 1;
  return problem.tokens <= shape_of(problem, steering, 1).places ? 1 : 2;
}

// Of packed rows; sums of several entries are not kept yet.
Steering steering_of(const SteerNormProblem& problem) {
  if (problem.entries == 0) return Steering::none;
  if (problem.modes) return Steering::modes;
  return problem.entries == 1 && problem.stored == 1 ? Steering::single : Steering::direct;
}

// Sums are kept where several rows share a setting and more rows wait than fit at once. All waves
// of blocks have nearly as many blocks, because the last one takes as long as any other.
void keep_sums(const SteerNormProblem& problem, SteerNormLaunch& launch) {
  if (problem.entries < 2 || problem.tokens_per_setting == 1) return;
  const BlockShape direct = shape_of(problem, Steering::direct, launch.packs);
  const BlockShape kept = shape_of(problem, Steering::kept, launch.packs);
  if (problem.tokens <= std::max(direct.places, kept.places)) return;
  if (kept.shared_bytes > kSharedLimit) return;
  const int64_t waves = ceil_div(problem.tokens, kept.places * kMaxRowsPerBlock);
  launch.steering = Steering::kept;
  launch.shared_bytes = kept.shared_bytes;
  launch.rows_per_block = ceil_div(problem.tokens, kept.places * waves);
}

void plan_elements(const SteerNormProblem& problem, SteerNormLaunch& launch) {
  launch.threads = static_cast<int>(std::min(kMaxThreads, ceil_div(problem.hidden, kWarp) * kWarp));
  if (!problem.modes || problem.entries == 0) return;
  launch.steering = Steering::modes;
  launch.shared_bytes = problem.hidden * 4;
}

}  // namespace

int planned_registers(Steering steering, int packs) {
  return kRegistersPerThread[static_cast<int>(steering)][packs - 1];
}

SteerNormProblem problem_of(const SteerNormArgs& args, const Gpu& gpu) {
  const int size = element_size(args.residual.dtype);
  const int64_t width = 16 / size;
  bool packs = args.hidden % width == 0 && has_kernel(args);
  for (const Rows& rows :
       {args.residual, args.x, args.weight, args.vectors, args.out, args.residual_out}) {
    packs = packs && (rows.data == nullptr || aligned(rows, width));
  }
  return {args.tokens,           args.hidden, size,
          args.entries,          args.stored, args.tokens_per_setting,
          args.modes != nullptr, packs,       gpu};
}

SteerNormLaunch plan_steer_norm(const SteerNormProblem& problem) {
  SteerNormLaunch launch{};
  const int64_t row_packs = ceil_div(problem.hidden, 16 / problem.element_size);
  launch.packed = problem.aligned && row_packs <= 2 * kMaxThreads;
  launch.share = 1.0f / static_cast<float>(problem.hidden);
  launch.rows_per_block = 1;
  if (launch.packed) {
    launch.steering = steering_of(problem);
    launch.packs = packs_per_thread(problem, launch.steering);
    launch.threads = static_cast<int>(shape_of(problem, launch.steering, launch.packs).threads);
    if (launch.steering == Steering::direct) keep_sums(problem, launch);
  } else {
    plan_elements(problem, launch);
  }
  launch.blocks = ceil_div(problem.tokens, launch.rows_per_block);
  return launch;
}

MomentsLaunch plan_moments(const MomentsArgs& args, int64_t scratch_bytes) {
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
