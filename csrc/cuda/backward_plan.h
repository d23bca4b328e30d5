// How a backward pass is spread over a GPU: a pure function of the call's shape, never of the
// device, so that results repeat on every GPU.
#pragma once

#include <stdint.h>

#include "common/kernel_args.h"

namespace faststeer {

// A block has some rows of one setting, or all rows of several settings. A segment is what of a
// setting one block has: the gradient of h summed over it is all that entries need.
struct BackwardLaunch {
  bool packed;       // or else element by element
  bool vectors;      // have a gradient, and entries
  int threads;       // per block
  int shared_bytes;  // of the weight's sums where packed
  float share;       // 1 / H
  int64_t blocks;    // in all
  int64_t rows_per_block;
  int64_t parts;               // blocks per setting; 1 where a block has whole settings
  int64_t settings_per_block;  // 1 where there are several parts
  int64_t segments;            // in all
  int64_t first_block;         // of this wave
  int64_t blocks_per_wave;
  int64_t stride;         // floats from one row of scratch to the next
  int64_t splits;         // of the segments of a wave, summed apart for each vector
  int64_t scratch_bytes;  // see backward_scratch.cuh
};

constexpr int64_t kBackwardRows = 64;  // of a block, at most: they meet in float32
constexpr int kScatterThreads = 128;
constexpr int kScatterColumns = 4 * kScatterThreads;
constexpr int kMergeLanes = 8;  // threads that share a column, and 32 side by side

// Segments take at most `wave_bytes` at a time, unless one block has more.
BackwardLaunch plan_backward(const BackwardArgs& args, int64_t wave_bytes = int64_t{64} << 20);

}  // namespace faststeer
