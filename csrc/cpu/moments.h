// The CPU kernel behind accumulate_moments, once per instruction set.
#pragma once

#include "common/kernel_args.h"

namespace faststeer {

// Columns `begin` to `end` of the `count` > 0 rows of x that `rows` lists: their means, and their
// sums of squared distances from them, are written to the first `end` - `begin` places.
using MomentsKernel = void (*)(const Rows& x, const int64_t* rows, int64_t count, int64_t begin,
                               int64_t end, double* mean, double* m2);

void moments_portable(const Rows& x, const int64_t* rows, int64_t count, int64_t begin, int64_t end,
                      double* mean, double* m2);
void moments_avx2(const Rows& x, const int64_t* rows, int64_t count, int64_t begin, int64_t end,
                  double* mean, double* m2);
void moments_avx512(const Rows& x, const int64_t* rows, int64_t count, int64_t begin, int64_t end,
                    double* mean, double* m2);

}  // namespace faststeer
