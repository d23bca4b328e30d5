// Rows that packs cannot move: any size, stride and alignment, and any mix of dtypes.
//
// A thread has every blockDim.x-th column, so that a warp's accesses are neighbours. It takes four
// columns at a time: an operand's dtype is looked at once for them, and their loads are in flight
// together. One by one, each load would wait for the store before it, which may be to the same row.
#pragma once

#include "cuda/packed_access.cuh"

namespace faststeer {

constexpr int kChunkColumns = 4;

template <class T>
__device__ inline void load_chunk(const T* row, int64_t first, int64_t hidden,
                                  float (&values)[kChunkColumns]) {
#pragma unroll
  for (int c = 0; c < kChunkColumns; ++c) {
    const int64_t j = first + c * blockDim.x;
    values[c] = j < hidden ? widen(row[j]) : 0.0f;
  }
}

// Of row n, whatever its dtype.
__device__ inline void load_chunk(const Rows& rows, int64_t n, int64_t first, int64_t hidden,
                                  float (&values)[kChunkColumns]) {
  switch (rows.dtype) {
    case DType::bfloat16:
      return load_chunk(row_of<const __nv_bfloat16>(rows, n), first, hidden, values);
    case DType::float16:
      return load_chunk(row_of<const __half>(rows, n), first, hidden, values);
    default:
      return load_chunk(row_of<const float>(rows, n), first, hidden, values);
  }
}

// Calls run(j, c) for the columns j of a chunk that the row has.
template <class Run>
__device__ inline void each_of_chunk(int64_t first, int64_t hidden, const Run& run) {
#pragma unroll
  for (int c = 0; c < kChunkColumns; ++c) {
    const int64_t j = first + c * blockDim.x;
    if (j < hidden) run(j, c);
  }
}

// Calls run(first) for each chunk of a thread.
template <class Run>
__device__ inline void each_chunk(int64_t hidden, const Run& run) {
  for (int64_t first = threadIdx.x; first < hidden; first += kChunkColumns * blockDim.x) run(first);
}

}  // namespace faststeer
