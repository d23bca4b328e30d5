// Residual add, steering and RMSNorm of a row in one pass over memory, where vectors are added.
//
// A row of 4096 bfloat16 is read once and written twice, 32 KiB, and the arithmetic is little: the
// kernel is bound by memory, and with few rows by latency. So a row lies in the registers of one
// block, as the rounded elements that the norm has to see; all of its loads are in flight before
// the first is used; and there is one barrier. Entries of a setting are read one a lane and handed
// round by shuffles: no shared memory, no barrier. Many rows that share a setting have its entries
// summed once per block, in shared memory of which each thread reads only what it wrote.
#pragma once

#include "cuda/block_row.cuh"
#include "cuda/entries.cuh"

namespace faststeer {

// V: the dtype of the vectors.
template <class R, class X, class V, int kPacks, Steering kSteering>
struct AddedRow : RowInPacks<R, X, kPacks> {
  using Row = RowInPacks<R, X, kPacks>;
  using Row::args, Row::column, Row::kWidth, Row::in_row, Row::launch;
  // Of vectors in flight per pack: what fits into 64 registers without spills. Eight vectors of a
  // half and four of float32 with one pack per thread, half of that with two. A kept sum is made
  // once per block.
  static constexpr int kBytes = kSteering == Steering::direct ? 128 / kPacks : 32;

  KeptSum<kWidth> kept;
  int64_t kept_setting = -1;

  // `sums` as in block_sum.
  __device__ void run(int64_t n, bool last, float (&sums)[kWarp]) {
    // The load phase. The weight belongs to it: loaded after the residual's store it came a latency
    // later, which few rows have nothing to hide behind. Entries are last, because nvcc tests an id
    // as soon as it can, and any load after that test would wait for the id.
    Pack<R, kWidth> h[kPacks];  // the residual, and then the sum
    Pack<X, kWidth> x[kPacks];
    Pack<R, kWidth> weight[kPacks];
    this->load_row(n, h, x);
    this->load_weight(weight);
    Pack<V, kWidth> only[kPacks];
    Entry chosen = no_entry();  // the only one, or this lane's
    int64_t setting = 0;
    if constexpr (kSteering != Steering::none) setting = setting_of(args, n);
    const bool kept_already = kSteering == Steering::kept && setting == kept_setting;
    if constexpr (kSteering == Steering::single) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        if (in_row(p)) only[p] = load<Reused, kWidth>(row_of<const V>(args.vectors, 0) + column(p));
      }
      chosen = read_entry<false>(args, setting, 0);
    } else if constexpr (kSteering != Steering::none) {
      if (!kept_already) chosen = entry_of_lane<false>(args, setting, 0);
    }
    if constexpr (kSteering == Steering::kept) {
      if (!kept_already) keep_sum(setting, chosen);
    }
    if (launch.overlap && last) let_next_kernel_start();

    float squares = 0.0f;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      float s[kWidth] = {};
      if constexpr (kSteering == Steering::direct) {
        sum_entries<V, kBytes, false>(args, setting, chosen, column(p), in_row(p), s);
      }
      if (!in_row(p)) continue;
      if constexpr (kSteering == Steering::single) {
        if (chosen.id >= 0) add_product(chosen.coefficient, only[p], s);
      }
      if constexpr (kSteering == Steering::kept) kept.get(p, s);
      float value[kWidth];
      this->add_x(h[p], x[p], value);
      if constexpr (kSteering != Steering::none) {
#pragma unroll
        for (int j = 0; j < kWidth; ++j) value[j] = __fadd_rn(value[j], s[j]);
      }
      h[p] = narrow<R>(value);
      store(row_of<R>(args.residual_out, n) + column(p), h[p]);
      widen(h[p], value);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) squares = fmaf(value[j], value[j], squares);
    }
    if (args.weight.data != nullptr) this->norm(n, h, weight, squares, sums);
  }

 private:
  __device__ void keep_sum(int64_t setting, Entry of_lane) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      float s[kWidth];
      sum_entries<V, kBytes, false>(args, setting, of_lane, column(p), in_row(p), s);
      kept.set(p, s);
    }
    kept_setting = setting;
  }
};

template <class R, class X, class V, int kPacks, Steering kSteering>
__global__ void __launch_bounds__(kMaxThreads)
    steer_norm_packed(const __grid_constant__ SteerNormArgs args,
                      const __grid_constant__ SteerNormLaunch launch) {
  __shared__ float sums[2][kWarp];
  AddedRow<R, X, V, kPacks, kSteering> row{{args, launch}, {nullptr}};
  wait_for_previous_kernel();
  const int64_t block = launch.first_block + blockIdx.x;
  if constexpr (kSteering == Steering::kept) {
    row.kept.slots = dynamic_shared<float4>();
    const int64_t begin = block * launch.rows_per_block;
    const int rows = static_cast<int>(min(launch.rows_per_block, args.tokens - begin));
#pragma unroll 1
    for (int r = 0; r < rows; ++r) row.run(begin + r, r + 1 == rows, sums[r % 2]);
  } else {  // a loop of one would cost a hundred instructions before the first load
    row.run(block, true, sums[0]);
  }
}

}  // namespace faststeer
