#include "cuda/dependent_launch.cuh"
#include "cuda/launch.cuh"
#include "cuda/packed_access.cuh"
#include "faulty.h"

namespace faulty {

using faststeer::kAllLanes;

__device__ float* room() { return faststeer::dynamic_shared<float>(); }

__global__ void nothing_wrong(float* memory) {
  room()[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  memory[threadIdx.x] = room()[blockDim.x - 1 - threadIdx.x];
}

__global__ void no_barrier(float* memory) {
  room()[threadIdx.x] = static_cast<float>(threadIdx.x);
  memory[threadIdx.x] = room()[blockDim.x - 1 - threadIdx.x];
}

// The first read of the second exchange may come before a late one of the first.
__global__ void no_barrier_before_reuse(float* memory) {
  float sum = 0.0f;
  for (int round = 0; round < 2; ++round) {
    room()[threadIdx.x] = static_cast<float>(round);
    __syncthreads();
    sum = 2.0f * sum + room()[blockDim.x - 1 - threadIdx.x];
  }
  memory[threadIdx.x] = sum;
}

__global__ void neighbours_in_a_warp(float* memory) {
  room()[threadIdx.x] = static_cast<float>(threadIdx.x);
  memory[threadIdx.x] = room()[threadIdx.x ^ 1];
}

__global__ void blocks_that_write_the_same(float* memory) {
  memory[threadIdx.x] = static_cast<float>(blockIdx.x);
}

__global__ void half_reach_a_barrier(float*) {
  if (threadIdx.x < blockDim.x / 2) __syncthreads();
}

__global__ void one_has_returned(float*) {
  if (threadIdx.x == 0) return;
  __syncthreads();
}

__global__ void two_barriers(float*) {
  if (threadIdx.x < blockDim.x / 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void half_reach_a_shuffle(float* memory) {
  if (threadIdx.x % 2 == 0) memory[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1.0f, 2);
}

__global__ void some_vote_while_others_wait(float* memory) {
  if (threadIdx.x % 2 == 0) __syncthreads();
  memory[threadIdx.x] = __ballot_sync(kAllLanes, 1) != 0 ? 1.0f : 0.0f;
}

__global__ void from_a_lane_outside_the_mask(float* memory) {
  if (threadIdx.x % 2 == 0) memory[threadIdx.x] = __shfl_sync(0x55555555u, 1.0f, 1);
}

__global__ void shared_memory_never_written(float* memory) {
  __shared__ float fixed[64];
  memory[threadIdx.x] = threadIdx.x % 2 == 0 ? fixed[threadIdx.x] : room()[threadIdx.x];
}

__global__ void beyond_shared_memory(float* memory) { memory[0] = room()[64 + threadIdx.x]; }

__global__ void beyond_fixed_shared_memory(float* memory) {
  __shared__ float fixed[64];
  fixed[threadIdx.x + 1] = 0.0f;
  memory[threadIdx.x] = fixed[threadIdx.x];
}

__global__ void beyond_the_buffer(float* memory) { memory[threadIdx.x + 1] = 0.0f; }

__global__ void unaligned_access(float* memory) {
  *reinterpret_cast<uint4*>(memory + 1) = make_uint4(0, 0, 0, 0);
}

__global__ void reads_before_it_waits(float* memory) {
  const float early = memory[threadIdx.x];
  faststeer::wait_for_previous_kernel();
  memory[threadIdx.x] = early;
}

__global__ void writes_before_it_waits(float* memory) {
  memory[threadIdx.x] = 0.0f;
  faststeer::wait_for_previous_kernel();
}

__global__ void half_of_it_waits(float* memory) {
  if (threadIdx.x < blockDim.x / 2) faststeer::wait_for_previous_kernel();
  __syncthreads();
  memory[threadIdx.x] = 0.0f;
}

__global__ void never_waits(float*) {}

__global__ void waits(float* memory) {
  faststeer::wait_for_previous_kernel();
  faststeer::let_next_kernel_start();
  memory[threadIdx.x] += 1.0f - static_cast<float>(blockIdx.x);
}

}  // namespace faulty

#define STARTED(name, overlap) \
  if (fault == #name)          \
  return faststeer::start(faulty::name, {2, 1, 1}, {64, 1, 1}, 256, nullptr, overlap, memory)
#define FAULT(name) STARTED(name, false)

void start_faulty(const std::string& fault, float* memory) {
  FAULT(nothing_wrong);
  FAULT(no_barrier);
  FAULT(no_barrier_before_reuse);
  FAULT(neighbours_in_a_warp);
  FAULT(blocks_that_write_the_same);
  FAULT(half_reach_a_barrier);
  FAULT(one_has_returned);
  FAULT(two_barriers);
  FAULT(half_reach_a_shuffle);
  FAULT(some_vote_while_others_wait);
  FAULT(from_a_lane_outside_the_mask);
  FAULT(shared_memory_never_written);
  FAULT(beyond_shared_memory);
  FAULT(beyond_fixed_shared_memory);
  FAULT(beyond_the_buffer);
  FAULT(unaligned_access);
  STARTED(reads_before_it_waits, true);
  STARTED(writes_before_it_waits, true);
  STARTED(half_of_it_waits, true);
  STARTED(never_waits, true);
  STARTED(waits, true);
  fibres::fail("no such fault: " + fault);
}
