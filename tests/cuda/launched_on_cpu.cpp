// In a GPU's place under csrc/bindings/register_cuda.cpp: torch's device and stream have to reach
// the launchers, and those run the CPU's kernels.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "cpu/parallel.h"
#include "cuda/kernels.h"
#include "cuda/launch_plan.h"

namespace {
int guarded = 0;
int stream_of_device = 0;
}  // namespace

AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  ++guarded;
  *guard = reinterpret_cast<DeviceGuardHandle>(&guarded);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) {
  --guarded;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = &stream_of_device;
  return AOTI_TORCH_SUCCESS;
}

namespace faststeer {
namespace {

void require_device_and_stream(void* stream) {
  if (guarded != 1 || stream != &stream_of_device) throw std::logic_error("not as torch has it");
}

}  // namespace

void launch_steer_norm(const SteerNormArgs& args, int, void* stream) {
  require_device_and_stream(stream);
  run_steer_norm(args);
}

void launch_backward(const BackwardArgs& args, const BackwardLaunch& launch, void* scratch,
                     void* stream) {
  require_device_and_stream(stream);
  std::memset(scratch, 0, static_cast<size_t>(launch.scratch_bytes));
  run_backward(args);
}

// Sums in place of moments: enough to see whether every argument came to where it belongs.
void launch_moments(const MomentsArgs& args, const MomentsLaunch& launch, double* scratch,
                    void* stream) {
  require_device_and_stream(stream);
  std::fill_n(scratch, launch.scratch_doubles, 0.0);
  for (int64_t n = 0; n < args.tokens; ++n) {
    const int64_t group = args.group == nullptr ? 0 : args.group[n];
    if (group < 0) continue;
    ++args.count[group];
    for (int64_t j = 0; j < args.hidden; ++j) {
      const double value = static_cast<const float*>(args.x.data)[n * args.x.stride + j];
      args.mean[group * args.hidden + j] += value;
      args.m2[group * args.hidden + j] += value * value;
    }
  }
}

}  // namespace faststeer
