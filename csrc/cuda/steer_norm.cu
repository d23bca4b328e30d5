#include <stdexcept>
#include <string>

#include "cuda/dispatch.cuh"
#include "cuda/kernels.h"
#include "cuda/steer_norm_general.cuh"
#include "cuda/steer_norm_packed.cuh"

namespace faststeer {
namespace {

// Each calls run(kernel) with the kernel that `launch` asks for.
template <class R, class X, class V, Steering kSteering, class Run>
void with_packs(const SteerNormLaunch& launch, const Run& run) {
  if (launch.packs == 1) return run(steer_norm_packed<R, X, V, 1, kSteering>);
  run(steer_norm_packed<R, X, V, 2, kSteering>);
}

template <class R, class X, class V, class Run>
void with_steering(const SteerNormLaunch& launch, const Run& run) {
  switch (launch.steering) {
    case Steering::single:
      return with_packs<R, X, V, Steering::single>(launch, run);
    case Steering::kept:
      return with_packs<R, X, V, Steering::kept>(launch, run);
    default:
      return with_packs<R, X, V, Steering::direct>(launch, run);
  }
}

template <class R, class X, class Run>
void with_vectors(const SteerNormArgs& args, const SteerNormLaunch& launch, const Run& run) {
  if (!launch.packed) return run(steer_norm_general<R>);
  if (args.entries == 0) return with_packs<R, X, R, Steering::none>(launch, run);
  if (args.vectors.dtype == DType::float32) return with_steering<R, X, float>(launch, run);
  with_steering<R, X, R>(launch, run);
}

// Of what is planned only rows with modes may take more than there is.
void require_shared_memory(const SteerNormArgs& args, const SteerNormLaunch& launch, int device) {
  const int64_t most = shared_limit(device) - kFixedShared;
  if (launch.shared_bytes <= most) return;
  throw std::invalid_argument("rows of " + std::to_string(args.hidden) +
                              " elements are too long for modes: this GPU takes " +
                              std::to_string(most / int64_t{sizeof(float)}));
}

}  // namespace

void launch_steer_norm(const SteerNormArgs& given, int device, void* stream) {
  SteerNormArgs args = given;
  if (args.tokens == 0) return;
  if (args.stored == 0) args.entries = 0;  // there is nothing that an id could name
  SteerNormLaunch launch = plan_steer_norm(problem_of(args, gpu_of(device)));
  launch.overlap = overlap_is_wanted() && has_programmatic_launch(device);
  require_shared_memory(args, launch, device);
  if (launch.steering == Steering::modes) return launch_steer_norm_modes(args, launch, stream);
  with_dtypes(args, [&](auto dtypes) {
    using D = decltype(dtypes);
    with_vectors<typename D::R, typename D::X>(
        args, launch, [&](auto kernel) { start_rows(kernel, args, launch, stream); });
  });
}

}  // namespace faststeer
