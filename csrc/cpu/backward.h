// The CPU kernels behind the backward ops, once per instruction set.
#pragma once

#include "common/kernel_args.h"

namespace faststeer {

// What the rows of one block leave for the merge. A segment is a run of rows of the block that
// share a line of `index`. Rows of floats have room for `hidden` + kMaxVectorWidth.
struct BackwardBlock {
  float* weight;         // the block's part of the weight's gradient; or none
  float* segments;       // of each segment the sum of h's gradient; or none
  double* coefficients;  // [segments, K]: the segments' parts of the coefficients'; or none
  float* scratch;        // two rows
};

// The gradients of rows `begin` to `end`, one block.
using BackwardKernel = void (*)(const BackwardArgs&, int64_t begin, int64_t end,
                                const BackwardBlock&);
// sums += factor * row.
using AddScaledKernel = void (*)(double factor, const float* row, int64_t count, double* sums);
// The first `count` elements of row n, rounded once more than a float is.
using RoundSumsKernel = void (*)(const double* sums, int64_t count, const Rows& to, int64_t n);

struct BackwardKernels {
  BackwardKernel rows;
  AddScaledKernel add_scaled;
  RoundSumsKernel round_sums;
};

void backward_portable(const BackwardArgs&, int64_t, int64_t, const BackwardBlock&);
void backward_avx2(const BackwardArgs&, int64_t, int64_t, const BackwardBlock&);
void backward_avx512(const BackwardArgs&, int64_t, int64_t, const BackwardBlock&);
void add_scaled_portable(double, const float*, int64_t, double*);
void add_scaled_avx2(double, const float*, int64_t, double*);
void add_scaled_avx512(double, const float*, int64_t, double*);
void round_sums_portable(const double*, int64_t, const Rows&, int64_t);
void round_sums_avx2(const double*, int64_t, const Rows&, int64_t);
void round_sums_avx512(const double*, int64_t, const Rows&, int64_t);

}  // namespace faststeer
