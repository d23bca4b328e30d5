// CUDA as far as the kernels use it, on one CPU thread: a fibre a CUDA thread.
//
// With this header in front, g++ compiles the kernels unmodified, and its sanitizers see what they
// do. Everything a thread has to itself is on its fibre's stack; a block's shared memory is
// thread_local, which fits both arrays of a kernel and the extern one whose size the launch
// decides. Conversions are the toolkit's own.
//
// Fibres make a missing barrier show itself. A warp runs until all of its lanes wait for the block
// or are done, and only then does the next one run; so of two accesses that no barrier keeps apart,
// the one of the earlier warp always comes first, and last when all orders are turned round.
// fibres.cpp schedules.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include <bit>
#include <cmath>
#include <functional>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#undef __shared__
#define __shared__ thread_local
#define __launch_bounds__(...)

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace fibres {

using Where = std::source_location;

// What a block can ask for: as much as on the GPUs that give least of those of today (sm_86).
constexpr int kMostShared = 99 * 1024;

// What a run may turn round or leave out.
struct Schedule {
  bool backward = false;         // lanes, warps and blocks
  int64_t dropped_barrier = -1;  // of each block, counted from 0: all run past it
};
inline Schedule schedule;

// What kernels share, as the addresses and sizes of heap blocks.
inline std::vector<std::pair<const char*, size_t>> shared_with_other_kernels;

// Runs `thread` once for every thread of every block. Ends the process, with a message, where a
// GPU would hang or leave the result undefined. With `overlap`, earlier kernels may be running yet:
// what kernels share is poisoned until the threads of the first block have waited for them.
void run(dim3 grid, dim3 block, int64_t shared_bytes, bool overlap,
         const std::function<void()>& thread);
[[noreturn]] void fail(const std::string& message);

void wait_for_block(Where where);
void wait_for_previous_kernel(Where where);
// What the lane `source` gave.
uint32_t shuffle(unsigned mask, uint32_t given, unsigned source, Where where);
// A bit for each lane that gave anything but zero.
uint32_t ballot(unsigned mask, uint32_t given, Where where);

}  // namespace fibres

inline void __syncthreads(fibres::Where where = fibres::Where::current()) {
  fibres::wait_for_block(where);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, fibres::Where where = fibres::Where::current()) {
  return std::bit_cast<T>(fibres::shuffle(mask, std::bit_cast<uint32_t>(value), lane, where));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits,
                  fibres::Where where = fibres::Where::current()) {
  const unsigned lane = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  return __shfl_sync(mask, value, static_cast<int>(lane) ^ bits, where);
}
inline unsigned __ballot_sync(unsigned mask, int vote,
                              fibres::Where where = fibres::Where::current()) {
  return fibres::ballot(mask, vote != 0, where);
}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
inline int __ffs(int bits) { return bits == 0 ? 0 : std::countr_zero(unsigned(bits)) + 1; }
inline int __popc(unsigned bits) { return std::popcount(bits); }
// A GPU's is within 2 ulp; this one is that far off, so that no result asks for better. By another
// name, because a C library may have one that is exact.
inline float rsqrt_as_bad_as_allowed(float value) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(1.0f / std::sqrt(value)) + 2);
}
#define rsqrtf rsqrt_as_bad_as_allowed
inline float __fdividef(float a, float b) { return a / b * (1.0f + 2e-7f); }  // 2 ulp on a GPU
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
// Two roundings, because the compiler is told -ffp-contract=off.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
