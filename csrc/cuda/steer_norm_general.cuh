// Rows of any hidden size, stride, alignment and mix of dtypes, element by element.
#pragma once

#include "cuda/block_row.cuh"
#include "cuda/entries.cuh"

namespace faststeer {

template <class R>
__global__ void __launch_bounds__(kMaxThreads)
    steer_norm_general(const __grid_constant__ SteerNormArgs args,
                       const __grid_constant__ SteerNormLaunch launch) {
  __shared__ float sums[kWarp];
  wait_for_previous_kernel();
  if (launch.overlap) let_next_kernel_start();
  const int64_t n = launch.first_block + blockIdx.x;
  const int64_t setting = args.entries > 0 ? setting_of(args, n) : 0;
  R* h = row_of<R>(args.residual_out, n);
  float squares = 0.0f;
  each_chunk(args.hidden, [&](int64_t first) {
    float value[kChunkColumns], x[kChunkColumns], s[kChunkColumns] = {};
    load_chunk(args.residual, n, first, args.hidden, value);
    if (args.x.data != nullptr) load_chunk(args.x, n, first, args.hidden, x);
    if (args.entries > 0) sum_entries<false>(args, setting, first, s);
    each_of_chunk(first, args.hidden, [&](int64_t j, int c) {
      if (args.x.data != nullptr) value[c] = __fadd_rn(value[c], x[c]);
      if (args.entries > 0) value[c] = __fadd_rn(value[c], s[c]);
      h[j] = narrow<R>(value[c]);
      const float rounded = widen(narrow<R>(value[c]));
      squares = fmaf(rounded, rounded, squares);
    });
  });
  if (args.weight.data == nullptr) return;
  norm_elements(args, launch, n, h, squares, sums);
}

}  // namespace faststeer
