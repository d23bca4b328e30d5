// Programmatic dependent launch: a kernel that is launched with the attribute may start before the
// one in front of it in the stream is done, as soon as all blocks of that one have let it. Without
// the attribute it starts when that one is done, and both instructions do nothing.
//
// Whatever kernels stand before and after, results are right as long as every thread of a kernel
// that may be launched so waits before it touches memory, and before it ends: then whatever waits
// for this kernel, with the attribute or without, waits for all before it too. docs/decisions.md
// has why nothing is read ahead of the wait, not even the weight.
#pragma once

namespace faststeer {

// Returns when all that earlier kernels of the stream have written can be read.
__device__ inline void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel finds room as blocks of this one end: it only waits sooner.
__device__ inline void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace faststeer
