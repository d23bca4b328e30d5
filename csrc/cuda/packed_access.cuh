// Shared by all kernels: packs of elements that one access moves, and sums over a block.
//
// Arithmetic is float32, written with __fadd_rn and __fmul_rn wherever the numeric contract asks
// for two roundings: the compiler never contracts those into a fused multiply-add. Conversions are
// the toolkit's own, which also run where there is no bfloat16 arithmetic (sm_75).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "common/kernel_args.h"

namespace faststeer {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;
constexpr unsigned kAllLanes = 0xffffffffu;

// How many elements one 16-byte access moves.
template <class T>
constexpr int kPackWidth = 16 / static_cast<int>(sizeof(T));

// kCount neighbouring elements, as the words that a load brings.
template <class T, int kCount>
struct Pack {
  static constexpr int kWords = kCount * static_cast<int>(sizeof(T)) / 4;
  static_assert(kWords == 2 || kWords % 4 == 0, "packs are moved 8 or 16 bytes at a time");
  uint32_t words[kWords] = {};
};

// Activations pass once: they should not push vectors and weights out of the caches.
struct Streamed {
  template <class Word>
  static __device__ Word load(const Word* p) {
    return __ldcs(p);
  }
};

// Weights, vectors and entries are read again by other rows, and nothing writes them meanwhile.
struct Reused {
  template <class Word>
  static __device__ Word load(const Word* p) {
    return __ldg(p);
  }
};

template <class Access, int kCount, class T>
__device__ inline Pack<T, kCount> load(const T* p) {
  Pack<T, kCount> pack;
  if constexpr (Pack<T, kCount>::kWords == 2) {
    const uint2 two = Access::load(reinterpret_cast<const uint2*>(p));
    pack.words[0] = two.x;
    pack.words[1] = two.y;
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T, kCount>::kWords; i += 4) {
      const uint4 four = Access::load(reinterpret_cast<const uint4*>(p) + i / 4);
      pack.words[i] = four.x;
      pack.words[i + 1] = four.y;
      pack.words[i + 2] = four.z;
      pack.words[i + 3] = four.w;
    }
  }
  return pack;
}

template <class T, int kCount>
__device__ inline void store(T* p, const Pack<T, kCount>& pack) {
  if constexpr (Pack<T, kCount>::kWords == 2) {
    *reinterpret_cast<uint2*>(p) = make_uint2(pack.words[0], pack.words[1]);
  } else {
    static_assert(Pack<T, kCount>::kWords == 4, "results are stored 16 bytes at a time");
    *reinterpret_cast<uint4*>(p) =
        make_uint4(pack.words[0], pack.words[1], pack.words[2], pack.words[3]);
  }
}

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float widen(__half value) { return __half2float(value); }

template <class T>
__device__ inline T narrow(float value) {
  if constexpr (sizeof(T) == 4) {
    return value;
  } else if constexpr (__is_same(T, __half)) {
    return __float2half_rn(value);
  } else {
    return __float2bfloat16_rn(value);
  }
}

template <class T, int kCount>
__device__ inline void widen(const Pack<T, kCount>& pack, float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < Pack<T, kCount>::kWords; ++i) {
    const uint32_t word = pack.words[i];
    if constexpr (sizeof(T) == 4) {
      values[i] = __uint_as_float(word);
    } else if constexpr (__is_same(T, __half)) {
      const float2 two = __half22float2(reinterpret_cast<const __half2&>(word));
      values[2 * i] = two.x;
      values[2 * i + 1] = two.y;
    } else {  // a bfloat16 is the upper half of its float32
      values[2 * i] = __uint_as_float(word << 16);
      values[2 * i + 1] = __uint_as_float(word & 0xffff0000u);
    }
  }
}

template <class T, int kCount>
__device__ inline Pack<T, kCount> narrow(const float (&values)[kCount]) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int i = 0; i < Pack<T, kCount>::kWords; ++i) {
    if constexpr (sizeof(T) == 4) {
      pack.words[i] = __float_as_uint(values[i]);
    } else if constexpr (__is_same(T, __half)) {
      const __half2 two = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
      pack.words[i] = reinterpret_cast<const uint32_t&>(two);
    } else {
      const __nv_bfloat162 two = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
      pack.words[i] = reinterpret_cast<const uint32_t&>(two);
    }
  }
  return pack;
}

template <class T>
__device__ inline T* row_of(const Rows& rows, int64_t n) {
  return static_cast<T*>(rows.data) + n * rows.stride;
}

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// The sum over all threads, in all threads. `sums` is shared and this call's alone until the next
// barrier after it: callers in a loop alternate between two.
__device__ inline float block_sum(float value, float (&sums)[kWarp]) {
  value = warp_sum(value);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  if (lane == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? sums[lane] : 0.0f);
}

// For a block that makes several sums: each call takes the other half, as block_sum asks.
struct AlternatingSums {
  float (&halves)[2][kWarp];
  int turn = 0;

  __device__ float (&next()) [kWarp] {
    turn ^= 1;
    return halves[turn];
  } __device__ float of_block(float value) {
    return block_sum(value, next());
  }
};

// Shared memory whose size the launch decides.
template <class T>
__device__ inline T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char faststeer_shared[];
  return reinterpret_cast<T*>(faststeer_shared);
}

// A thread's part of a sum, in shared memory that no other thread touches. Threads lie
// side by side, so that a warp's accesses meet no bank twice.
template <int kWidth>
struct KeptSum {
  float4* slots;

  __device__ float4& at(int pack, int quarter) const {
    return slots[(pack * (kWidth / 4) + quarter) * blockDim.x + threadIdx.x];
  }
  __device__ void set(int pack, const float (&s)[kWidth]) const {
#pragma unroll
    for (int q = 0; q < kWidth / 4; ++q) {
      at(pack, q) = make_float4(s[4 * q], s[4 * q + 1], s[4 * q + 2], s[4 * q + 3]);
    }
  }
  __device__ void get(int pack, float (&s)[kWidth]) const {
#pragma unroll
    for (int q = 0; q < kWidth / 4; ++q) {
      const float4 four = at(pack, q);
      s[4 * q] = four.x;
      s[4 * q + 1] = four.y;
      s[4 * q + 2] = four.z;
      s[4 * q + 3] = four.w;
    }
  }
};

}  // namespace faststeer
