// Selection of the kernel that was built for a call's dtypes, and its launch.
#pragma once

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/launch_plan.h"
#include "cuda/packed_access.cuh"

namespace faststeer {

template <class R_, class X_>
struct Dtypes {
  using R = R_;  // of the residual
  using X = X_;  // of x, where the call can be moved in packs
};

// Calls run(Dtypes<R, X>).
template <class Run>
void with_dtypes(const SteerNormArgs& args, const Run& run) {
  const bool x = args.x.data != nullptr;
  switch (args.residual.dtype) {
    case DType::bfloat16:
      return run(Dtypes<__nv_bfloat16, __nv_bfloat16>{});
    case DType::float16:
      return run(Dtypes<__half, __half>{});
    default:  // autocast adds halves to a float32 stream
      if (x && args.x.dtype == DType::bfloat16) return run(Dtypes<float, __nv_bfloat16>{});
      if (x && args.x.dtype == DType::float16) return run(Dtypes<float, __half>{});
      return run(Dtypes<float, float>{});
  }
}

// A block for every few rows, in as many grids as that takes.
template <class Kernel>
void start_rows(Kernel kernel, const SteerNormArgs& args, SteerNormLaunch launch, void* stream) {
  const dim3 threads(static_cast<unsigned>(launch.threads));
  for (; launch.first_block < launch.blocks; launch.first_block += kMaxBlocks) {
    const int64_t blocks = std::min(kMaxBlocks, launch.blocks - launch.first_block);
    start(kernel, dim3(static_cast<unsigned>(blocks)), threads,
          static_cast<int>(launch.shared_bytes), stream, launch.overlap, args, launch);
  }
}

}  // namespace faststeer
