#include "cuda/backward_plan.h"

#include <algorithm>

namespace faststeer {
namespace {

constexpr int64_t kWarp = 32;
constexpr int64_t kMaxThreads = 1024;
// Two blocks of 512 threads for each of an H100's multiprocessors. More would make more partial
// sums of the weight's gradient.
constexpr int64_t kWantedBlocks = 256;

int64_t ceil_div(int64_t value, int64_t step) { return (value + step - 1) / step; }

int element_size(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

bool aligned(const Rows& rows, int64_t pack_width) {
  const int64_t bytes = std::min<int64_t>(16, pack_width * element_size(rows.dtype));
  return reinterpret_cast<uintptr_t>(rows.data) % static_cast<uintptr_t>(bytes) == 0 &&
         rows.stride * element_size(rows.dtype) % bytes == 0;
}

// Whether one pack per thread holds a row, and every operand can be moved in packs.
bool packs_fit(const BackwardArgs& args) {
  const Rows& gradient = args.grad_out.data != nullptr ? args.grad_out : args.grad_residual;
  const DType own = gradient.dtype;
  const int64_t width = 16 / element_size(own);
  if (args.hidden % width != 0 || args.hidden / width > kMaxThreads) return false;
  if (args.weight.data != nullptr && args.weight.dtype != own) return false;
  if (args.grad_x.data != nullptr && args.grad_x.dtype != own && own != DType::float32) {
    return false;
  }
  if (args.vectors.data != nullptr && args.vectors.dtype != own &&
      args.vectors.dtype != DType::float32) {
    return false;
  }
  for (const Rows& rows : {args.grad_out, args.grad_residual, args.h, args.weight, args.vectors,
                           args.grad_h, args.grad_x}) {
    if (rows.data != nullptr && !aligned(rows, width)) return false;
  }
  return true;
}

void cut_into_blocks(BackwardLaunch& launch, int64_t tokens, int64_t per_setting) {
  const int64_t wanted = std::clamp<int64_t>(ceil_div(tokens, kWantedBlocks), 1, kBackwardRows);
  const int64_t settings = tokens / per_setting;
  launch.parts = ceil_div(per_setting, wanted);
  launch.settings_per_block = launch.parts > 1 ? 1 : std::max<int64_t>(1, wanted / per_setting);
  launch.rows_per_block = launch.parts > 1 ? ceil_div(per_setting, launch.parts)
                                           : launch.settings_per_block * per_setting;
  launch.parts = launch.parts > 1 ? ceil_div(per_setting, launch.rows_per_block) : 1;
  launch.blocks =
      launch.parts > 1 ? settings * launch.parts : ceil_div(settings, launch.settings_per_block);
  launch.segments = settings * launch.parts;
}

}  // namespace

BackwardLaunch plan_backward(const BackwardArgs& args, int64_t wave_bytes) {
  BackwardLaunch launch{};
  const Rows& gradient = args.grad_out.data != nullptr ? args.grad_out : args.grad_residual;
  launch.packed = packs_fit(args);
  launch.vectors = args.grad_vectors.data != nullptr && args.entries > 0;
  const int64_t columns = launch.packed ? 16 / element_size(gradient.dtype) : 1;
  launch.threads = static_cast<int>(
      std::min(kMaxThreads, ceil_div(ceil_div(args.hidden, columns), kWarp) * kWarp));
  if (launch.packed && args.grad_out.data != nullptr) {
    launch.shared_bytes = static_cast<int>(launch.threads * columns * 4);
  }
  launch.share = 1.0f / static_cast<float>(args.hidden);
  launch.stride = ceil_div(args.hidden, 4) * 4;
  launch.parts = launch.settings_per_block = launch.rows_per_block = 1;
  if (args.tokens > 0) {
    const bool entries = args.entries > 0;
    cut_into_blocks(launch, args.tokens, entries ? args.tokens_per_setting : args.tokens);
  }

  const bool dots = args.grad_coefficient != nullptr && args.entries > 0;
  const int64_t of_block = launch.settings_per_block * launch.stride * 4;
  launch.blocks_per_wave = std::max<int64_t>(1, launch.blocks);
  if (launch.vectors || dots) {
    launch.blocks_per_wave = std::clamp<int64_t>(wave_bytes / of_block, 1, launch.blocks_per_wave);
    const int64_t tiles = ceil_div(args.hidden, kScatterColumns);
    const int64_t vectors = std::max<int64_t>(1, args.stored);
    launch.splits = std::clamp<int64_t>(kWantedBlocks / (tiles * vectors), 1, 32);
    launch.scratch_bytes = launch.blocks_per_wave * of_block;
  }
  if (launch.vectors) launch.scratch_bytes += launch.splits * args.stored * launch.stride * 8;
  if (args.grad_weight.data != nullptr) launch.scratch_bytes += launch.blocks * launch.stride * 4;
  if (dots && launch.parts > 1) launch.scratch_bytes += launch.segments * args.entries * 4;
  return launch;
}

}  // namespace faststeer
