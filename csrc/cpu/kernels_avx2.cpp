#define FASTSTEER_ISA_NAMESPACE avx2
// clang-format off: the kernels are written in terms of the SIMD layer
#include "cpu/simd_avx2.h"
#include "cpu/backward_kernel.h"
#include "cpu/moments_kernel.h"
#include "cpu/steer_norm_kernel.h"
// clang-format on

namespace faststeer {

void steer_norm_avx2(const SteerNormArgs& args, int64_t begin, int64_t end, float* scratch) {
  avx2::steer_norm(args, begin, end, scratch);
}

void moments_avx2(const Rows& x, const int64_t* rows, int64_t count, int64_t begin, int64_t end,
                  double* mean, double* m2) {
  avx2::moments(x, rows, count, begin, end, mean, m2);
}

void backward_avx2(const BackwardArgs& args, int64_t begin, int64_t end,
                   const BackwardBlock& block) {
  avx2::backward_rows(args, begin, end, block);
}

void add_scaled_avx2(double factor, const float* row, int64_t count, double* sums) {
  avx2::add_scaled(factor, row, count, sums);
}

void round_sums_avx2(const double* sums, int64_t count, const Rows& to, int64_t n) {
  avx2::round_sums(sums, count, to, n);
}

}  // namespace faststeer
