#define FASTSTEER_ISA_NAMESPACE avx512
// clang-format off: the kernels are written in terms of the SIMD layer
#include "cpu/simd_avx512.h"
#include "cpu/backward_kernel.h"
#include "cpu/moments_kernel.h"
#include "cpu/steer_norm_kernel.h"
// clang-format on

namespace faststeer {

void steer_norm_avx512(const SteerNormArgs& args, int64_t begin, int64_t end, float* scratch) {
  avx512::steer_norm(args, begin, end, scratch);
}

void moments_avx512(const Rows& x, const int64_t* rows, int64_t count, int64_t begin, int64_t end,
                    double* mean, double* m2) {
  avx512::moments(x, rows, count, begin, end, mean, m2);
}

void backward_avx512(const BackwardArgs& args, int64_t begin, int64_t end,
                     const BackwardBlock& block) {
  avx512::backward_rows(args, begin, end, block);
}

void add_scaled_avx512(double factor, const float* row, int64_t count, double* sums) {
  avx512::add_scaled(factor, row, count, sums);
}

void round_sums_avx512(const double* sums, int64_t count, const Rows& to, int64_t n) {
  avx512::round_sums(sums, count, to, n);
}

}  // namespace faststeer
