// clang-format off: where tests put a CUDA without a GPU in its place, this comes before kernels
#include "cuda/launch.cuh"
#include "cuda/backward_general.cuh"
#include "cuda/backward_merge.cuh"
#include "cuda/backward_packed.cuh"
#include "cuda/kernels.h"
// clang-format on

namespace faststeer {
namespace {

// Each calls run(kernel) with the kernel that reads the rows of this call.
template <class R, class X, class Run>
void with_norm(const BackwardArgs& args, const Run& run) {
  if (args.grad_out.data != nullptr) return run(backward_packed<R, X, true>);
  run(backward_packed<R, R, false>);  // steer_add passes its gradient on: there is no grad_x
}

template <class Run>
void with_backward_kernel(const BackwardArgs& args, const BackwardLaunch& launch, const Run& run) {
  if (!launch.packed) return run(backward_general);
  const Rows& gradient = args.grad_out.data != nullptr ? args.grad_out : args.grad_residual;
  switch (gradient.dtype) {
    case DType::bfloat16:
      return with_norm<__nv_bfloat16, __nv_bfloat16>(args, run);
    case DType::float16:
      return with_norm<__half, __half>(args, run);
    default:
      break;
  }
  const bool x = args.grad_x.data != nullptr;
  if (x && args.grad_x.dtype == DType::bfloat16) return with_norm<float, __nv_bfloat16>(args, run);
  if (x && args.grad_x.dtype == DType::float16) return with_norm<float, __half>(args, run);
  with_norm<float, float>(args, run);
}

dim3 blocks(int64_t x, int64_t y = 1) {
  if (x > kMaxBlocks) throw std::runtime_error("too many vectors or settings for one launch");
  return {static_cast<unsigned>(x), static_cast<unsigned>(y), 1};
}

int64_t ceil_div(int64_t value, int64_t step) { return (value + step - 1) / step; }

template <class T>
void merge(const Partials<T>& partials, int64_t lines, const Rows& to, void* stream) {
  const int64_t grid = ceil_div(partials.columns, kWarp) * lines;
  if (grid == 0) return;
  start(merge_sums<T>, blocks(grid), {kWarp, kMergeLanes, 1}, 0, stream, false, partials, to);
}

}  // namespace

void launch_backward(const BackwardArgs& args, const BackwardLaunch& planned, void* memory,
                     void* stream) {
  BackwardLaunch launch = planned;
  const BackwardScratch scratch(memory, args, launch);
  const int64_t tiles = ceil_div(args.hidden, kScatterColumns);
  for (; launch.first_block < launch.blocks; launch.first_block += launch.blocks_per_wave) {
    const int64_t wave = std::min(launch.blocks_per_wave, launch.blocks - launch.first_block);
    with_backward_kernel(args, launch, [&](auto kernel) {
      start(kernel, blocks(wave), {static_cast<unsigned>(launch.threads), 1, 1},
            launch.shared_bytes, stream, false, args, launch, memory);
    });
    if (!launch.vectors || args.stored == 0) continue;
    start(scatter_segments, blocks(tiles * args.stored, launch.splits), {kScatterThreads, 1, 1}, 0,
          stream, false, args, launch, memory);
  }
  if (args.grad_weight.data != nullptr) {
    merge<float>({scratch.weight, 0, launch.stride, launch.blocks, args.hidden}, 1,
                 args.grad_weight, stream);
  }
  if (args.grad_vectors.data != nullptr) {
    const bool any = launch.vectors && launch.blocks > 0;
    merge<double>({scratch.vectors, launch.stride, args.stored * launch.stride,
                   any ? launch.splits : 0, args.hidden},
                  args.stored, args.grad_vectors, stream);
  }
  if (args.grad_coefficient != nullptr && (launch.parts > 1 || launch.blocks == 0)) {
    const Rows to{args.grad_coefficient, args.entries, DType::float32};
    merge<float>({scratch.dots, launch.parts * args.entries, args.entries,
                  launch.blocks > 0 ? launch.parts : 0, args.entries},
                 args.settings, to, stream);
  }
}

}  // namespace faststeer
