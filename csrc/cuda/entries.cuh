// The entries of a setting, and the sum of the vectors that they name.
//
// There is one type of entry and one way to read it for all kernels: those that add vectors in
// registers, those whose vectors have modes, and those that go element by element. A kernel without
// modes reads no mode, and the compiler drops what it would say.
//
// An entry costs two dependent loads before its vector arrives, of the entry and of the vector. The
// loads of id and coefficient are therefore written without a branch: with one on the id, nvcc sank
// the coefficient's load behind it, and a row waited three times in a row instead of twice.
#pragma once

#include "cuda/element_access.cuh"
#include "cuda/packed_access.cuh"

namespace faststeer {

// Row n's line of `index`. The commonest answers come without a division, which an id waits for,
// and 64-bit division takes several times as long as 32-bit.
__device__ inline int64_t setting_of(const SteerNormArgs& args, int64_t n) {
  if (args.tokens_per_setting == 1) return n;
  if (args.tokens_per_setting == args.tokens) return 0;
  if (args.tokens <= UINT32_MAX) {
    return static_cast<uint32_t>(n) / static_cast<uint32_t>(args.tokens_per_setting);
  }
  return n / args.tokens_per_setting;
}

// The mode of a vector: `steered` in the reference states what the numbers do.
struct Mode {
  float push, pull, keep, floor, ceiling;
};

struct Entry {
  int32_t id;  // -1 for none; its coefficient and mode are then undefined or zero
  float coefficient;
  Mode mode;
};

__device__ inline Entry no_entry() { return {-1, 0.0f, {}}; }

// Entry k of a setting. A kernel cannot raise: an id that no vector has makes the row NaN.
template <bool kModes>
__device__ inline Entry read_entry(const SteerNormArgs& args, int64_t setting, int64_t k) {
  const int64_t at = setting * args.entries + k;
  const int32_t id = __ldg(args.index + at);
  const float coefficient = __ldg(args.coefficient + at);
  const bool known = id >= -1 && id < args.stored;
  Entry entry{known ? id : 0, known ? coefficient : __uint_as_float(0x7fc00000u), {1, 0, 0, 0, 0}};
  if constexpr (kModes) {
    if (entry.id < 0) return no_entry();
    const float* line = args.modes + kModeNumbers * static_cast<int64_t>(entry.id);
    entry.mode = {__ldg(line), __ldg(line + 1), __ldg(line + 2), __ldg(line + 3), __ldg(line + 4)};
  }
  return entry;
}

// Entry `first` + lane of a setting: a warp reads 32 at once. The loads are in flight when this
// returns; a lane beyond the last entry reads that one again rather than branch around its load.
template <bool kModes>
__device__ inline Entry entry_of_lane(const SteerNormArgs& args, int64_t setting, int64_t first) {
  const int64_t k = first + threadIdx.x % kWarp;
  const Entry entry = read_entry<kModes>(args, setting, min(k, args.entries - 1));
  return k < args.entries ? entry : no_entry();
}

// What of an entry is a plain sum: all of it without a pull, and nothing with one.
template <bool kModes>
__device__ inline Entry added_part(Entry entry) {
  if constexpr (kModes) {
    if (entry.mode.pull != 0.0f) return no_entry();
    entry.coefficient = __fmul_rn(entry.coefficient, entry.mode.push);
  }
  return entry;
}

template <class V, int kWidth>
__device__ inline void add_product(float coefficient, const Pack<V, kWidth>& vector,
                                   float (&s)[kWidth]) {
  float values[kWidth];
  widen(vector, values);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) s[j] = __fadd_rn(s[j], __fmul_rn(coefficient, values[j]));
}

// s += c_k * V[i_k] in the columns of one pack for kBatch entries, the first of them in lane k. All
// lanes of a warp call this, those without columns of their own too.
template <int kBatch, class V, int kWidth>
__device__ inline void add_batch(const SteerNormArgs& args, const Entry& of_lane, int k, int column,
                                 bool in_row, float (&s)[kWidth]) {
  Pack<V, kWidth> vectors[kBatch];
#pragma unroll
  for (int b = 0; b < kBatch; ++b) {
    const int32_t id = __shfl_sync(kAllLanes, of_lane.id, k + b);
    if (in_row && id >= 0) {
      vectors[b] = load<Reused, kWidth>(row_of<const V>(args.vectors, id) + column);
    }
  }
  // Shuffled again rather than kept: registers are what limits the vectors in flight.
#pragma unroll
  for (int b = 0; b < kBatch; ++b) {
    const int32_t id = __shfl_sync(kAllLanes, of_lane.id, k + b);
    const float coefficient = __shfl_sync(kAllLanes, of_lane.coefficient, k + b);
    if (id >= 0) add_product(coefficient, vectors[b], s);
  }
}

// The sum of all entries in the columns of one pack, in entry order; `of_lane` are the first 32.
// kBytes of vectors are in flight at first, and half of that later, when the sum so far takes
// registers too.
template <class V, int kBytes, bool kModes, int kWidth>
__device__ inline void sum_entries(const SteerNormArgs& args, int64_t setting, Entry of_lane,
                                   int column, bool in_row, float (&s)[kWidth]) {
  constexpr int kFirst = kBytes / static_cast<int>(kWidth * sizeof(V));
  constexpr int kBatch = kFirst > 1 ? kFirst / 2 : 1;
  static_assert(kWarp % kFirst == 0, "no batch spans two rounds of lanes");
#pragma unroll
  for (int j = 0; j < kWidth; ++j) s[j] = 0.0f;
  of_lane = added_part<kModes>(of_lane);
  add_batch<kFirst, V>(args, of_lane, 0, column, in_row, s);
  const int entries = static_cast<int>(args.entries);
#pragma unroll 1
  for (int k = kFirst; k < entries; k += kBatch) {
    if (k % kWarp == 0) of_lane = added_part<kModes>(entry_of_lane<kModes>(args, setting, k));
    add_batch<kBatch, V>(args, of_lane, k % kWarp, column, in_row, s);
  }
}

// The same in the columns of a chunk, for rows that go element by element.
template <bool kModes>
__device__ inline void sum_entries(const SteerNormArgs& args, int64_t setting, int64_t first,
                                   float (&s)[kChunkColumns]) {
#pragma unroll
  for (int c = 0; c < kChunkColumns; ++c) s[c] = 0.0f;
#pragma unroll 1
  for (int64_t k = 0; k < args.entries; ++k) {
    const Entry entry = added_part<kModes>(read_entry<kModes>(args, setting, k));
    if (entry.id < 0) continue;
    float values[kChunkColumns];
    load_chunk(args.vectors, entry.id, first, args.hidden, values);
#pragma unroll
    for (int c = 0; c < kChunkColumns; ++c) {
      s[c] = __fadd_rn(s[c], __fmul_rn(entry.coefficient, values[c]));
    }
  }
}

}  // namespace faststeer
