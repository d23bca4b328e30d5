// How a call is spread over a GPU: pure functions of the call's shape, the same with or without
// one.
#pragma once

#include <stdint.h>

#include "args.h"

namespace faststeer {

// A row lies in the registers of one block: `packs` accesses of 16 bytes a thread.
struct SteerNormLaunch {
  bool packed;     // or else element by element: any size, stride, alignment and mix of dtypes
  int packs;       // a thread: 1 or 2
  int threads;     // a block
  int64_t blocks;  // at most 2^31 - 1
  int64_t rows_a_block;
  bool kept;          // rows of a block that share a setting have its entries summed once
  bool early_weight;  // the weight is read before the sum that it waits for
  int shared_bytes;   // of the kept sums
  bool overlap;       // programmatic dependent launch
};

struct SteerNormProblem {
  int64_t tokens;
  int64_t hidden;
  int element_size;  // of the residual, in bytes
  int64_t entries;
  int64_t tokens_per_setting;
  bool aligned;  // every row of every operand begins at a multiple of what one access moves
  int multiprocessors;
};

SteerNormLaunch plan_steer_norm(const SteerNormProblem& problem);

// What the planner needs to know of a call: whether whole packs can be moved.
SteerNormProblem problem_of(const SteerNormArgs& args, int multiprocessors);

// Column tiles times row splits. The splits follow from the shape alone, never from the device, so
// that results repeat on every GPU.
struct MomentsLaunch {
  bool packed;
  int64_t rows_a_split;  // at most kSplitRows
  int64_t splits;
  int64_t column_tiles;
  int64_t scratch_doubles;  // of the partial results, see moments.cuh
};

constexpr int kSplitRows = 1024;
constexpr int kMomentsLanes = 8;  // threads that share a column, and 32 side by side

MomentsLaunch plan_moments(const MomentsArgs& args);

}  // namespace faststeer
