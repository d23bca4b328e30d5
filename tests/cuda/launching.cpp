// csrc/cuda/launch.cuh over a CUDA runtime that is none: what it asks of CUDA, and what becomes of
// errors. The first argument names what is tried; results go to stdout.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <utility>

#include "cuda/launch.cuh"

namespace {

constexpr int kShared = 227 * 1024;  // of a block, on an H100

struct Runtime {
  cudaError_t last_error = cudaSuccess;
  bool refuses_launches = false;
  int major = 9;
  std::map<const void*, int> shared_limits;  // by kernel
  std::function<void()> before_next_launch = [] {};

  cudaError_t returned(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
  }
  cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel) {
    std::exchange(before_next_launch, [] {})();
    const int limit = std::max(shared_limits[kernel], faststeer::kSharedLimit);
    if (refuses_launches || config.dynamicSmemBytes > static_cast<size_t>(limit)) {
      return returned(cudaErrorInvalidConfiguration);
    }
    std::cout << "launched with " << config.dynamicSmemBytes << " bytes";
    for (unsigned i = 0; i < config.numAttrs; ++i) {
      const auto& attribute = config.attrs[i];
      const bool overlaps = attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization &&
                            attribute.val.programmaticStreamSerializationAllowed == 1;
      std::cout << (overlaps ? ", may overlap" : ", unknown attribute");
    }
    std::cout << '\n';
    return cudaSuccess;
  }
};
Runtime runtime;

}  // namespace

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(runtime.last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t) { return "CUDA's words"; }

cudaError_t cudaGetDevice(int* device) {
  *device = 3;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const std::map<cudaDeviceAttr, int> facts{
      {cudaDevAttrMultiProcessorCount, 132},
      {cudaDevAttrComputeCapabilityMajor, runtime.major},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, kShared},
      {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 228 * 1024},
  };
  *value = facts.at(which);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute which, int value) {
  if (which != cudaFuncAttributeMaxDynamicSharedMemorySize ||
      value > kShared - faststeer::kFixedShared) {
    return runtime.returned(cudaErrorInvalidValue);
  }
  runtime.shared_limits[kernel] = value;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) {
  return runtime.launch(*config, kernel);
}

}  // extern "C"

namespace {

void kernel(int) {}

void start(int shared_bytes) {
  const bool overlap = faststeer::overlap_is_wanted() && faststeer::has_programmatic_launch(3);
  faststeer::start(kernel, {1, 1, 1}, {32, 1, 1}, shared_bytes, nullptr, overlap, 0);
}

void refuse(int shared_bytes) {
  try {
    start(shared_bytes);
  } catch (const std::runtime_error& error) {
    std::cout << "threw " << error.what() << '\n';
  }
}

void try_after_a_failure() {
  runtime.refuses_launches = true;
  refuse(0);
  runtime.refuses_launches = false;
  start(0);
  refuse(kShared + 1);
  start(0);
  std::cout << "last error " << cudaGetLastError() << '\n';
}

// As if a second thread came between this one's request and its launch.
void try_a_smaller_call_in_between() {
  runtime.before_next_launch = [] { start(60 * 1024); };
  start(200 * 1024);
}

void try_an_older_gpu() {
  runtime.major = 8;
  start(0);
}

// A line per way to steer: registers with one pack and with two.
void print_registers() {
  for (int i = 0; i < 5; ++i) {
    const auto steering = static_cast<faststeer::Steering>(i);
    std::cout << faststeer::planned_registers(steering, 1) << ' '
              << faststeer::planned_registers(steering, 2) << '\n';
  }
}

}  // namespace

int main(int, char** arguments) {
  const std::string what = arguments[1];
  if (what == "failure") try_after_a_failure();
  if (what == "in between") try_a_smaller_call_in_between();
  if (what == "launch") start(0);
  if (what == "older gpu") try_an_older_gpu();
  if (what == "registers") print_registers();
}
