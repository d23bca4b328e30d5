#define FASTSTEER_ISA_NAMESPACE avx2
#include "cpu/simd_avx2.h"
#include "cpu/steer_norm_kernel.h"

namespace faststeer {

void steer_norm_avx2(const SteerNormArgs& args, int64_t begin, int64_t end, float* scratch) {
  avx2::steer_norm(args, begin, end, scratch);
}

}  // namespace faststeer
