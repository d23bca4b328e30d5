#include "cuda/dispatch.cuh"
#include "cuda/kernels.h"
#include "cuda/steer_norm_modes.cuh"

namespace faststeer {
namespace {

// Each calls run(kernel) with the kernel that `launch` asks for.
template <class R, class X, class V, class Run>
void with_packs(const SteerNormLaunch& launch, const Run& run) {
  if (launch.packs == 1) return run(steer_norm_modes<R, X, V, 1>);
  run(steer_norm_modes<R, X, V, 2>);
}

template <class R, class X, class Run>
void with_vectors(const SteerNormArgs& args, const SteerNormLaunch& launch, const Run& run) {
  if (!launch.packed) return run(steer_norm_modes_general<R>);
  if (args.vectors.dtype == DType::float32) return with_packs<R, X, float>(launch, run);
  with_packs<R, X, R>(launch, run);
}

}  // namespace

void launch_steer_norm_modes(const SteerNormArgs& args, const SteerNormLaunch& launch,
                             void* stream) {
  with_dtypes(args, [&](auto dtypes) {
    using D = decltype(dtypes);
    with_vectors<typename D::R, typename D::X>(
        args, launch, [&](auto kernel) { start_rows(kernel, args, launch, stream); });
  });
}

}  // namespace faststeer
