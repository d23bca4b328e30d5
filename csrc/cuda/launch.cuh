// Starting a kernel: what the device can do, the attributes, and the check of every call.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>

#include "cuda/launch_plan.h"

namespace faststeer {

// CUDA keeps the last error until it is asked for: whoever asks next would take it for theirs.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

struct DeviceFacts {
  int multiprocessors;
  int major;
  int shared_bytes;                             // that a block can request
  int resident_threads, resident_shared_bytes;  // on a multiprocessor
};

// Queried once per device: they do not change.
inline const DeviceFacts& facts_of(int device) {
  constexpr int kMaxDevices = 64;
  static std::array<DeviceFacts, kMaxDevices> facts;
  static std::array<std::once_flag, kMaxDevices> asked;
  std::call_once(asked.at(device), [device] {
    const auto attribute = [device](cudaDeviceAttr which) {
      int value;
      check(cudaDeviceGetAttribute(&value, which, device), "querying a device attribute");
      return value;
    };
    facts[device] = {attribute(cudaDevAttrMultiProcessorCount),
                     attribute(cudaDevAttrComputeCapabilityMajor),
                     attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
                     attribute(cudaDevAttrMaxThreadsPerMultiProcessor),
                     attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)};
  });
  return facts[device];
}

inline Gpu gpu_of(int device) {
  const DeviceFacts& facts = facts_of(device);
  return {facts.multiprocessors, facts.resident_threads, facts.resident_shared_bytes};
}
inline bool has_programmatic_launch(int device) { return facts_of(device).major >= 9; }

inline int shared_limit(int device) { return facts_of(device).shared_bytes; }

// Off unless FASTSTEER_PDL=1, until a GPU's figures decide: see dependent_launch.cuh.
inline bool overlap_is_wanted() {
  static const bool wanted = [] {
    const char* text = std::getenv("FASTSTEER_PDL");
    return text != nullptr && std::string(text) == "1";
  }();
  return wanted;
}

// Lets a kernel take as much shared memory as the current device has. Always that and never what
// one call needs: the limit is the kernel's, and a smaller call of another thread would lower it
// between this one's request and its launch.
inline void allow_all_shared_memory(const void* kernel) {
  int device;
  check(cudaGetDevice(&device), "asking for the current device");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             shared_limit(device) - kFixedShared),
        "requesting shared memory");
}

template <class... Parameters, class... Arguments>
void start(void (*kernel)(Parameters...), dim3 grid, dim3 block, int shared_bytes, void* stream,
           bool overlap, const Arguments&... arguments) {
  if (shared_bytes > kSharedLimit) {
    allow_all_shared_memory(reinterpret_cast<const void*>(kernel));
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "launching a kernel");
}

}  // namespace faststeer
