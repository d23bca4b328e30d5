#define FASTSTEER_ISA_NAMESPACE portable
// clang-format off: the kernels are written in terms of the SIMD layer
#include "cpu/simd_portable.h"
#include "cpu/backward_kernel.h"
#include "cpu/moments_kernel.h"
#include "cpu/steer_norm_kernel.h"
// clang-format on

namespace faststeer {

void steer_norm_portable(const SteerNormArgs& args, int64_t begin, int64_t end, float* scratch) {
  portable::steer_norm(args, begin, end, scratch);
}

void moments_portable(const Rows& x, const int64_t* rows, int64_t count, int64_t begin, int64_t end,
                      double* mean, double* m2) {
  portable::moments(x, rows, count, begin, end, mean, m2);
}

void backward_portable(const BackwardArgs& args, int64_t begin, int64_t end,
                       const BackwardBlock& block) {
  portable::backward_rows(args, begin, end, block);
}

void add_scaled_portable(double factor, const float* row, int64_t count, double* sums) {
  portable::add_scaled(factor, row, count, sums);
}

void round_sums_portable(const double* sums, int64_t count, const Rows& to, int64_t n) {
  portable::round_sums(sums, count, to, n);
}

}  // namespace faststeer
