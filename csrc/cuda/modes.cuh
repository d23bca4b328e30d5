// What projections, clamps, caps and kept norms add to the sum of entries: see `steered` in the
// reference.
#pragma once

#include "cuda/entries.cuh"

namespace faststeer {

// The factor of an entry's vector v in a projection, clamp or cap, where `along` is the row times
// v. NaN stays NaN, though not within fminf and fmaxf.
__device__ inline float projection_factor(const Entry& entry, float along) {
  const Mode& mode = entry.mode;
  const float own = fmaf(-entry.coefficient, mode.push, along);
  const float held = fmaxf(fminf(own, mode.ceiling), mode.floor);
  const float share = mode.push == 0.0f ? entry.coefficient * mode.pull : mode.pull;
  return share * (held - own);
}

// The factor that restores a row's norm, from its sums of squares before and after. Exactly 1 where
// nothing changed, and where no factor restores it.
__device__ inline float kept_norm(float squares_before, float squares_after) {
  const float factor = sqrtf(squares_before) / sqrtf(squares_after);
  return factor < __uint_as_float(0x7f800000u) ? factor : 1.0f;  // neither infinite nor NaN
}

// A bit for each lane whose entry is a projection, a clamp or a cap.
__device__ inline unsigned pulling(const Entry& of_lane) {
  return __ballot_sync(kAllLanes, of_lane.mode.pull != 0.0f);
}

}  // namespace faststeer
