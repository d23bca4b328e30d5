#define FASTSTEER_ISA_NAMESPACE avx512
#include "cpu/simd_avx512.h"
#include "cpu/steer_norm_kernel.h"

namespace faststeer {

void steer_norm_avx512(const SteerNormArgs& args, int64_t begin, int64_t end, float* scratch) {
  avx512::steer_norm(args, begin, end, scratch);
}

}  // namespace faststeer
