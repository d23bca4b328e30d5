#define FASTSTEER_ISA_NAMESPACE portable
#include "cpu/simd_portable.h"
#include "cpu/steer_norm_kernel.h"

namespace faststeer {

void steer_norm_portable(const SteerNormArgs& args, int64_t begin, int64_t end, float* scratch) {
  portable::steer_norm(args, begin, end, scratch);
}

}  // namespace faststeer
