// What projections, clamps and kept norms add to the sum of entries: see `steered` in the
// reference.
#pragma once

#include "cuda/entries.cuh"

namespace faststeer {

// The factor of an entry's vector v in a projection or clamp, where `along` is the row times v.
__device__ inline float projection_factor(const Entry& entry, float along) {
  return entry.coefficient * fmaf(-entry.mode.pull, along, entry.mode.push);
}

// The factor that restores a row's norm, from its sums of squares before and after. Exactly 1 where
// nothing changed, and where no factor restores it.
__device__ inline float kept_norm(float squares_before, float squares_after) {
  const float factor = sqrtf(squares_before) / sqrtf(squares_after);
  return factor < __uint_as_float(0x7f800000u) ? factor : 1.0f;  // neither infinite nor NaN
}

// A bit for each lane whose entry is a projection or a clamp.
__device__ inline unsigned pulling(const Entry& of_lane) {
  return __ballot_sync(kAllLanes, of_lane.mode.pull != 0.0f);
}

}  // namespace faststeer
