// Residual add, steering and RMSNorm of a row whose vectors have modes.
//
// A projection needs the whole row before it changes any of it, and a kept norm the row as it was
// before and after. So the row stays in float32, in registers or shared memory of one block, until
// all entries had their turn; it is rounded once. Each projection costs a sum over the block, the
// kept norm two. A block has one row and so one setting: all of its threads take the same turns.
#pragma once

#include "cuda/block_row.cuh"
#include "cuda/modes.cuh"

namespace faststeer {

template <class R, class X, class V, int kPacks>
struct RowWithModes : RowInPacks<R, X, kPacks> {
  using Row = RowInPacks<R, X, kPacks>;
  using Row::args, Row::column, Row::kWidth, Row::in_row, Row::launch;
  static constexpr int kBytes = 32;  // of vectors in flight
  // The weight is part of the load phase where a thread has one pack. Two of a half type, their
  // float32 values and the weight spilled on sm_75 and sm_80.
  static constexpr bool kHoldWeight = kPacks == 1;

  AlternatingSums sums;
  float value[kPacks][kWidth] = {};  // zeros where this thread has no columns

  __device__ void run(int64_t n) {
    Pack<R, kWidth> residual[kPacks], weight[kPacks];
    Pack<X, kWidth> x[kPacks];
    this->load_row(n, residual, x);
    if constexpr (kHoldWeight) this->load_weight(weight);
    const int64_t setting = setting_of(args, n);
    const Entry of_lane = entry_of_lane<true>(args, setting, 0);
    if (launch.overlap) let_next_kernel_start();
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (in_row(p)) this->add_x(residual[p], x[p], value[p]);
    }
    const bool keep = any_keeps(setting, of_lane);
    const float before = keep ? squares() : 0.0f;
    const unsigned pulls = pulling(of_lane);
    add(setting, of_lane);
    project(setting, pulls);
    if (keep) scale(kept_norm(before, squares()));
    round(n, weight);
  }

 private:
  __device__ bool any_keeps(int64_t setting, const Entry& of_lane) const {
    bool keeps = of_lane.mode.keep != 0.0f;
#pragma unroll 1
    for (int64_t first = kWarp; first < args.entries; first += kWarp) {
      keeps = keeps || entry_of_lane<true>(args, setting, first).mode.keep != 0.0f;
    }
    return __ballot_sync(kAllLanes, keeps) != 0;
  }

  __device__ float squares() {
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) sum = fmaf(value[p][j], value[p][j], sum);
    }
    return sums.of_block(sum);
  }

  __device__ void add(int64_t setting, Entry of_lane) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      float s[kWidth];
      sum_entries<V, kBytes, true>(args, setting, of_lane, column(p), in_row(p), s);
      if (!in_row(p)) continue;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) value[p][j] = __fadd_rn(value[p][j], s[j]);
    }
  }

  // `pulls` has a bit for each of the first 32 entries that pull.
  __device__ void project(int64_t setting, unsigned pulls) {
#pragma unroll 1
    for (int64_t first = 0; first < args.entries; first += kWarp) {
      if (first > 0) pulls = pulling(entry_of_lane<true>(args, setting, first));
#pragma unroll 1
      for (; pulls != 0; pulls &= pulls - 1) {
        const int k = __ffs(static_cast<int>(pulls)) - 1;
        project_one(read_entry<true>(args, setting, first + k));
      }
    }
  }

  __device__ void project_one(const Entry& entry) {
    Pack<V, kWidth> vector[kPacks];
    float along = 0.0f;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (in_row(p)) {
        vector[p] = load<Reused, kWidth>(row_of<const V>(args.vectors, entry.id) + column(p));
      }
    }
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      float direction[kWidth];
      widen(vector[p], direction);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) along = fmaf(value[p][j], direction[j], along);
    }
    const float part = projection_factor(entry, sums.of_block(along));
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (!in_row(p)) continue;
      float direction[kWidth];
      widen(vector[p], direction);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) value[p][j] = fmaf(part, direction[j], value[p][j]);
    }
  }

  __device__ void scale(float factor) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) value[p][j] *= factor;
    }
  }

  __device__ void round(int64_t n, Pack<R, kWidth> (&weight)[kPacks]) {
    if constexpr (!kHoldWeight) this->load_weight(weight);
    Pack<R, kWidth> h[kPacks];
    float squares = 0.0f;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (!in_row(p)) continue;
      h[p] = narrow<R>(value[p]);
      store(row_of<R>(args.residual_out, n) + column(p), h[p]);
      float rounded[kWidth];
      widen(h[p], rounded);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) squares = fmaf(rounded[j], rounded[j], squares);
    }
    if (args.weight.data != nullptr) this->norm(n, h, weight, squares, sums.next());
  }
};

// One block a multiprocessor is enough: on sm_100 nvcc would else take 32 registers for two, and
// spill.
template <class R, class X, class V, int kPacks>
__global__ void __launch_bounds__(kMaxThreads, 1)
    steer_norm_modes(const __grid_constant__ SteerNormArgs args,
                     const __grid_constant__ SteerNormLaunch launch) {
  __shared__ float sums[2][kWarp];
  RowWithModes<R, X, V, kPacks> row{{args, launch}, {sums}};
  wait_for_previous_kernel();
  row.run(launch.first_block + blockIdx.x);
}

// Any stride, alignment and mix of dtypes, element by element, and any size that shared memory
// holds in float32: the results may lie where the operands do, so there is no going back to those.
// A thread reads and writes the same elements in each loop, so only the sums need barriers.
template <class R>
__global__ void __launch_bounds__(kMaxThreads, 1)
    steer_norm_modes_general(const __grid_constant__ SteerNormArgs args,
                             const __grid_constant__ SteerNormLaunch launch) {
  __shared__ float halves[2][kWarp];
  AlternatingSums sums{halves};
  float* value = dynamic_shared<float>();
  wait_for_previous_kernel();
  if (launch.overlap) let_next_kernel_start();
  const int64_t n = launch.first_block + blockIdx.x;
  const int64_t setting = setting_of(args, n);
  const auto each = [&](const auto& run) {
    for (int64_t j = threadIdx.x; j < args.hidden; j += blockDim.x) run(j);
  };
  const auto squares = [&] {
    float sum = 0.0f;
    each([&](int64_t j) { sum = fmaf(value[j], value[j], sum); });
    return sums.of_block(sum);
  };
  // Calls run(j, direction[j]) with the columns of a vector.
  const auto each_with = [&](int64_t id, const auto& run) {
    each_chunk(args.hidden, [&](int64_t first) {
      float direction[kChunkColumns];
      load_chunk(args.vectors, id, first, args.hidden, direction);
      each_of_chunk(first, args.hidden, [&](int64_t j, int c) { run(j, direction[c]); });
    });
  };

  each_chunk(args.hidden, [&](int64_t first) {
    float residual[kChunkColumns], x[kChunkColumns];
    load_chunk(args.residual, n, first, args.hidden, residual);
    if (args.x.data != nullptr) load_chunk(args.x, n, first, args.hidden, x);
    each_of_chunk(first, args.hidden, [&](int64_t j, int c) {
      value[j] = args.x.data != nullptr ? __fadd_rn(residual[c], x[c]) : residual[c];
    });
  });
  bool keep = false;
  for (int64_t k = 0; k < args.entries; ++k) {
    keep = keep || read_entry<true>(args, setting, k).mode.keep != 0.0f;
  }
  const float before = keep ? squares() : 0.0f;
  each_chunk(args.hidden, [&](int64_t first) {
    float s[kChunkColumns];
    sum_entries<true>(args, setting, first, s);
    each_of_chunk(first, args.hidden,
                  [&](int64_t j, int c) { value[j] = __fadd_rn(value[j], s[c]); });
  });
#pragma unroll 1
  for (int64_t k = 0; k < args.entries; ++k) {
    const Entry entry = read_entry<true>(args, setting, k);
    if (entry.mode.pull == 0.0f) continue;
    float along = 0.0f;
    each_with(entry.id,
              [&](int64_t j, float direction) { along = fmaf(value[j], direction, along); });
    const float factor = projection_factor(entry, sums.of_block(along));
    each_with(entry.id,
              [&](int64_t j, float direction) { value[j] = fmaf(factor, direction, value[j]); });
  }
  const float factor = keep ? kept_norm(before, squares()) : 1.0f;

  R* h = row_of<R>(args.residual_out, n);
  float squares_of_rounded = 0.0f;
  each([&](int64_t j) {
    h[j] = narrow<R>(value[j] * factor);
    const float rounded = widen(h[j]);
    squares_of_rounded = fmaf(rounded, rounded, squares_of_rounded);
  });
  if (args.weight.data != nullptr) {
    norm_elements(args, launch, n, h, squares_of_rounded, sums.next());
  }
}

}  // namespace faststeer
