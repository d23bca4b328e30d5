// The tile pass of the moments: count, mean and centred second moment of every column, in one read
// of the rows and without atomics.
//
// A block takes a tile of columns and at most 1,024 rows, and of those the rows of one group, which
// it lists first: other rows are never read, so groups cost next to nothing. A thread goes down its
// columns four rows at a time, in float32: sums of squared distances from each four's own mean,
// merged as Chan, Golub and LeVeque (1983) merge samples, eight fours to a run of 32 rows. All
// terms are positive, and distances are taken from the median of three of the run's rows, so
// neither a mean of 1e6 nor an outlier costs digits, as it would with E[x^2] - mean^2. More than 32
// rows in float32 would: runs, threads and blocks are merged in float64, in a fixed order.
#pragma once

#include "cuda/moments_merge.cuh"
#include "cuda/packed_access.cuh"

namespace faststeer {

constexpr int kChunkRows = 4;
constexpr int kRun = 32;  // rows that meet in float32

// The moments of a thread's rows in float64, and the base of its run, for which there are no
// registers left: in shared memory that no other thread touches. Threads lie side by side, so that
// a warp's accesses meet no bank twice.
template <int kWidth>
struct LaneMoments {
  double mean[kMomentsLanes][kWidth][kWarp];
  double m2[kMomentsLanes][kWidth][kWarp];
  float base[kMomentsLanes][kWidth][kWarp];
  int count[kMomentsLanes];
};

// kWidth columns of one run of rows: around its base, the running mean and centred moment.
template <int kWidth>
struct RunMoments {
  int count = 0;
  float mean[kWidth] = {};
  float m2[kWidth] = {};

  // Takes the first `rows` of the chunk; kChunkRows of them almost always.
  template <class T>
  __device__ void add(const Pack<T, kWidth> (&chunk)[kChunkRows], int rows,
                      LaneMoments<kWidth>& lanes) {
    const float share = 1.0f / static_cast<float>(rows);
    const float new_share = static_cast<float>(rows) / static_cast<float>(count + rows);
    const float both = static_cast<float>(count) * new_share;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      float value[kChunkRows];
#pragma unroll
      for (int r = 0; r < kChunkRows; ++r) value[r] = one(chunk[r], j);
      float& base = lanes.base[threadIdx.y][j][threadIdx.x];
      if (count == 0) base = median_of_three(value, rows);
#pragma unroll
      for (int r = 0; r < kChunkRows; ++r) value[r] -= base;
      const float own_mean = total(value, rows) * share;
      float own_m2 = 0.0f;
#pragma unroll
      for (int r = 0; r < kChunkRows; ++r) {
        const float distance = value[r] - own_mean;
        if (r < rows) own_m2 = fmaf(distance, distance, own_m2);
      }
      const float apart = own_mean - mean[j];
      mean[j] = fmaf(apart, new_share, mean[j]);
      m2[j] += fmaf(apart * apart, both, own_m2);
    }
    count += rows;
  }

  // Ends the run: merges it into the thread's moments of `before` rows.
  __device__ void flush(LaneMoments<kWidth>& lanes, int& before) {
    const int x = static_cast<int>(threadIdx.x), lane = static_cast<int>(threadIdx.y);
    const double share = static_cast<double>(count) / static_cast<double>(before + count);
    const double both = static_cast<double>(before) * share;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      double& mean_so_far = lanes.mean[lane][j][x];
      double& m2_so_far = lanes.m2[lane][j][x];
      const double run_mean =
          static_cast<double>(lanes.base[lane][j][x]) + static_cast<double>(mean[j]);
      const double apart = before == 0 ? 0.0 : run_mean - mean_so_far;
      mean_so_far = before == 0 ? run_mean : mean_so_far + apart * share;
      m2_so_far = (before == 0 ? 0.0 : m2_so_far) + m2[j] + apart * apart * both;
      mean[j] = m2[j] = 0.0f;
    }
    before += count;
    count = 0;
  }

 private:
  template <class T>
  static __device__ float one(const Pack<T, kWidth>& pack, int j) {
    if constexpr (sizeof(T) == 4) {
      return __uint_as_float(pack.words[j]);
    } else if constexpr (__is_same(T, __half)) {
      const float2 two = __half22float2(reinterpret_cast<const __half2&>(pack.words[j / 2]));
      return j % 2 == 0 ? two.x : two.y;
    } else {
      const uint32_t word = pack.words[j / 2];
      return __uint_as_float(j % 2 == 0 ? word << 16 : word & 0xffff0000u);
    }
  }
  // Of the first rows and the last. Chosen without an index, which would take the chunk to memory.
  static __device__ float median_of_three(const float (&value)[kChunkRows], int rows) {
    const float a = value[0];
    const float b = rows > 1 ? value[1] : a;
    float c = a;
#pragma unroll
    for (int r = 1; r < kChunkRows; ++r) c = r < rows ? value[r] : c;
    return fmaxf(fminf(a, b), fminf(fmaxf(a, b), c));
  }
  static __device__ float total(const float (&value)[kChunkRows], int rows) {
    float sum = value[0];
#pragma unroll
    for (int r = 1; r < kChunkRows; ++r) {
      if (r < rows) sum += value[r];
    }
    return sum;
  }
};

// Which of a split's rows are of one group, in order.
struct RowList {
  uint16_t row[kSplitRows];
  int counts[kSplitRows / kWarp];

  // All threads call this; it ends in a barrier. Returns how many there are.
  __device__ int fill(const int32_t* group, int wanted, int rows) {
    const int lane = static_cast<int>(threadIdx.x);  // warps lie along x
    unsigned votes[kSplitRows / kMomentsThreads];
#pragma unroll
    for (int pass = 0; pass < kSplitRows / kMomentsThreads; ++pass) {
      const int i = pass * kMomentsThreads + static_cast<int>(threadIdx.y) * kWarp + lane;
      votes[pass] = __ballot_sync(kAllLanes, i < rows && __ldg(group + i) == wanted);
      if (lane == 0) counts[i / kWarp] = __popc(votes[pass]);
    }
    __syncthreads();
#pragma unroll
    for (int pass = 0; pass < kSplitRows / kMomentsThreads; ++pass) {
      const int warp = pass * kMomentsLanes + static_cast<int>(threadIdx.y);
      int before = __popc(votes[pass] & ((1u << lane) - 1));
      for (int w = 0; w < warp; ++w) before += counts[w];
      if ((votes[pass] >> lane & 1) != 0) {
        row[before] = static_cast<uint16_t>(warp * kWarp + lane);
      }
    }
    int all = 0;
    for (int w = 0; w < kSplitRows / kWarp; ++w) all += counts[w];
    __syncthreads();
    return all;
  }
};

template <bool kPacked, class T, int kWidth>
__device__ inline Pack<T, kWidth> load_columns(const T* row, int64_t column, int64_t hidden) {
  if constexpr (kPacked) return load<Streamed, kWidth>(row + column);
  Pack<T, kWidth> pack;
  T* elements = reinterpret_cast<T*>(pack.words);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    if (column + j < hidden) elements[j] = row[column + j];
  }
  return pack;
}

// Grid: splits of the step, column tiles, groups of the step. Block: 32 packs of columns,
// kMomentsLanes rows at a time.
template <class T, bool kPacked>
__global__ void __launch_bounds__(kMomentsThreads, 4)
    moments_of_splits(const __grid_constant__ MomentsArgs args,
                      const __grid_constant__ MomentsLaunch launch,
                      const __grid_constant__ MomentsStep step, double* memory) {
  constexpr int kWidth = kPackWidth<T>;
  constexpr int kColumns = kWarp * kWidth;
  __shared__ RowList list;
  __shared__ LaneMoments<kWidth> lanes;

  const int64_t split = step.first_split + blockIdx.x;
  const int64_t group = step.first_group + blockIdx.z;
  const int64_t begin = split * launch.rows_per_split;
  const int rows = static_cast<int>(min(launch.rows_per_split, args.tokens - begin));
  const int found =
      args.group == nullptr ? rows : list.fill(args.group + begin, static_cast<int>(group), rows);
  const auto listed = [&](int i) {
    return row_of<const T>(args.x, begin + (args.group == nullptr ? i : list.row[i]));
  };

  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * kColumns;
  const int64_t column = first_column + threadIdx.x * kWidth;
  const int lane = static_cast<int>(threadIdx.y);
  int lane_rows = 0;
  if (column < args.hidden) {
    RunMoments<kWidth> run;
    for (int i = lane * kChunkRows; i < found; i += kMomentsLanes * kChunkRows) {
      const int here = min(kChunkRows, found - i);
      Pack<T, kWidth> chunk[kChunkRows];
#pragma unroll
      for (int r = 0; r < kChunkRows; ++r) {
        if (r < here) {
          chunk[r] = load_columns<kPacked, T, kWidth>(listed(i + r), column, args.hidden);
        }
      }
      run.add(chunk, here, lanes);
      if (run.count >= kRun) run.flush(lanes, lane_rows);
    }
    if (run.count > 0) run.flush(lanes, lane_rows);
  }
  if (threadIdx.x == 0) lanes.count[lane] = lane_rows;
  __syncthreads();

  const MomentsScratch scratch(memory, step, args.hidden);
  const int64_t partial = static_cast<int64_t>(blockIdx.x) * step.groups + blockIdx.z;
  const int thread = lane * kWarp + static_cast<int>(threadIdx.x);
  if (thread == 0 && blockIdx.y == 0) {
    scratch.count[partial] = found;
    if (blockIdx.x == 0) {
      scratch.count_before[blockIdx.z] = static_cast<double>(args.count[group]);
    }
  }
  // Rows are dealt to lanes in turn: the first has some if any has.
  for (int c = thread; c < kColumns; c += kMomentsThreads) {
    if (found == 0 || first_column + c >= args.hidden) continue;
    const int x = c / kWidth, j = c % kWidth;
    const double shift = lanes.mean[0][j][x];
    double sum = 0.0;
    for (int l = 1; l < kMomentsLanes; ++l) {
      if (lanes.count[l] > 0) sum += lanes.count[l] * (lanes.mean[l][j][x] - shift);
    }
    const double mean = shift + sum / found;
    double m2 = 0.0;
    for (int l = 0; l < kMomentsLanes; ++l) {
      if (lanes.count[l] == 0) continue;
      const double apart = lanes.mean[l][j][x] - mean;
      m2 += lanes.m2[l][j][x] + lanes.count[l] * apart * apart;
    }
    scratch.mean[partial * args.hidden + first_column + c] = mean;
    scratch.m2[partial * args.hidden + first_column + c] = m2;
  }
}

}  // namespace faststeer
