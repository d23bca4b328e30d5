// How a call is spread over a GPU: pure functions of the call's shape, the same with or without
// one.
#pragma once

#include <stdint.h>

#include "common/kernel_args.h"

namespace faststeer {

// How a row gets its steering.
enum class Steering : int32_t {
  none,
  single,  // one entry, one vector: its row is read without waiting for the id that chooses it
  direct,  // a row's entries, summed in registers
  kept,    // rows of a block that share a setting have its entries summed once, in shared memory
  modes,   // vectors have modes: rows in float32 until all entries had their turn
};

// A row lies in the registers of one block.
struct SteerNormLaunch {
  bool packed;  // or else element by element: any size, stride, alignment and mix of dtypes
  Steering steering;
  int packs;               // 16-byte accesses per thread and operand: 1 or 2
  int threads;             // per block
  int64_t blocks;          // in all
  int64_t first_block;     // of this grid, where there are more than one holds
  int64_t rows_per_block;  // more than one only where sums are kept
  int64_t shared_bytes;    // of the kept sums, or of a row with modes that is not packed
  bool overlap;            // programmatic dependent launch
  float share;             // 1 / H
};

constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;  // of one grid

// Shared memory that the kernels have beside that, and what is left of the 48 KiB that a block has
// on any GPU without being asked for more.
constexpr int kFixedShared = 2 * 32 * 4;
constexpr int kSharedLimit = 48 * 1024 - kFixedShared;

// What the planner knows of a device.
struct Gpu {
  int multiprocessors;
  int threads;       // that a multiprocessor holds
  int shared_bytes;  // of a multiprocessor
};

struct SteerNormProblem {
  int64_t tokens;
  int64_t hidden;
  int element_size;  // of the residual, in bytes
  int64_t entries;
  int64_t stored;  // vectors
  int64_t tokens_per_setting;
  bool modes;    // vectors have modes
  bool aligned;  // every row of every operand begins at a multiple of what one access moves
  Gpu gpu;
};

SteerNormLaunch plan_steer_norm(const SteerNormProblem& problem);

// What the planner needs to know of a call: whether whole packs can be moved.
SteerNormProblem problem_of(const SteerNormArgs& args, const Gpu& gpu);

// Registers per thread that the planner takes a kernel to need; tests compare them with the
// compiler's.
int planned_registers(Steering steering, int packs);

// Column tiles times row splits, in as many steps as keep the scratch memory small. Splits follow
// from the shape alone, never from the device or from the steps, so that results repeat everywhere.
struct MomentsLaunch {
  bool packed;
  int64_t rows_per_split;  // at most kSplitRows
  int64_t splits;
  int64_t column_tiles;
  int64_t splits_per_step;  // all, or a multiple of kMergedSplits
  int64_t groups_per_step;
  int64_t scratch_doubles;  // of one step's results, see moments_merge.cuh
};

// What one tile pass reads and the merge after it adds to the state.
struct MomentsStep {
  int64_t first_split, splits;
  int64_t first_group, groups;
};

constexpr int kSplitRows = 1024;
constexpr int kMomentsLanes = 8;   // threads that share a column, and 32 side by side
constexpr int kMergedSplits = 32;  // at a time
constexpr int64_t kMomentsScratchBytes = int64_t{64} << 20;  // as on the CPU

// A step takes at least kMergedSplits of one group, whatever `scratch_bytes` is: beyond 131,000
// elements a row those exceed kMomentsScratchBytes.
MomentsLaunch plan_moments(const MomentsArgs& args, int64_t scratch_bytes = kMomentsScratchBytes);

}  // namespace faststeer
