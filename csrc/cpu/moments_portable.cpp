#define FASTSTEER_ISA_NAMESPACE portable
// clang-format off: the kernel is written in terms of the SIMD layer
#include "cpu/simd_portable.h"
#include "cpu/moments_kernel.h"
// clang-format on

namespace faststeer {

void moments_portable(const Rows& x, const int64_t* rows, int64_t count, int64_t begin, int64_t end,
                      double* mean, double* m2) {
  portable::moments(x, rows, count, begin, end, mean, m2);
}

}  // namespace faststeer
