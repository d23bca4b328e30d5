// Moments of tiles of rows in parallel, then merged into the state in the order of the tiles: equal
// bits whatever the number of threads.
#include "cpu/moments.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "common/tensor_view.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace faststeer {
namespace {

constexpr int64_t kTileRows = 1024;
// Tiles whose moments would take more than this are merged before further ones are read.
constexpr int64_t kScratchBytes = int64_t{64} << 20;
// As for steer_add_rms_norm: fewer elements are not worth waking a second thread.
constexpr int64_t kElementsPerThread = 16384;
// Blocks of columns are no narrower than this, and whole rows where possible: of 4096 bfloat16 a
// core read 19 GB/s in whole rows, 17 in quarters and 11 in sixteenths, where most of what the
// processor fetches ahead is for nothing.
constexpr int64_t kNarrowest = 256;

// The rows of one group in one tile.
struct Part {
  int64_t group;
  int64_t begin;   // in Parts::rows
  int64_t count;   // of rows
  int64_t before;  // rows of the group that are merged before these
};

// Parts in the order of their tiles, with the rows of each.
class Parts {
 public:
  std::vector<Part> parts;
  std::vector<int64_t> rows;
  int64_t tiles = 0;

  explicit Parts(const MomentsArgs& args)
      : args_(args), merged_(args.count, args.count + args.groups) {
    clear();
  }

  void clear() {
    parts.clear();
    rows.clear();
    tiles = 0;
    part_of_.assign(args_.groups, -1);
  }

  void add_tile(int64_t begin, int64_t end) {
    ++tiles;
    const int64_t first = parts.size();
    for (int64_t n = begin; n < end; ++n) {
      const int64_t group = group_of(n);
      if (group < 0) continue;
      if (part_of_[group] < first) {
        part_of_[group] = parts.size();
        parts.push_back({group, 0, 0, merged_[group]});
      }
      ++merged_[group];
      ++parts[part_of_[group]].count;
    }
    int64_t position = rows.size();
    for (size_t p = first; p < parts.size(); ++p) {
      parts[p].begin = position;
      position += parts[p].count;
      parts[p].count = 0;
    }
    rows.resize(position);
    for (int64_t n = begin; n < end; ++n) {
      const int64_t group = group_of(n);
      if (group < 0) continue;
      Part& part = parts[part_of_[group]];
      rows[part.begin + part.count++] = n;
    }
  }

  // Rows of each group, with all that were added.
  const std::vector<int64_t>& counts() const { return merged_; }

 private:
  int64_t group_of(int64_t n) const { return args_.group == nullptr ? 0 : args_.group[n]; }

  const MomentsArgs& args_;
  std::vector<int64_t> merged_;
  std::vector<int64_t> part_of_;  // group -> its latest part
};

void require_known_groups(const MomentsArgs& args) {
  if (args.group == nullptr) return;
  for (int64_t n = 0; n < args.tokens; ++n) {
    require(args.group[n] >= -1 && args.group[n] < args.groups, "group holds ", args.group[n],
            "; expected -1 to skip a row, or a group, 0 to ", args.groups - 1);
  }
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls work(begin, end) for ranges of `count` items, which have `elements` elements together.
template <class Work>
void parallel_over(int64_t count, int64_t elements, const Work& work) {
  if (elements <= kElementsPerThread) {
    work(int64_t{0}, count);
  } else {
    const int64_t grain = std::max<int64_t>(1, count * kElementsPerThread / elements);
    torch::stable::parallel_for(0, count, grain, work);
  }
}

// Of each part, mean [parts, H] and m2 [parts, H].
void moments_of(const MomentsArgs& args, const Parts& given, double* mean, double* m2) {
  const MomentsKernel kernel = current_isa().moments;
  const int64_t parts = given.parts.size();
  // Tiles are of one size, which their parts are not: each thread gets as many whole tiles, or the
  // same share of the columns of as many, as any other. Hence items of one block are neighbours.
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t wanted = given.tiles >= 4 * threads ? 1 : threads / std::gcd(given.tiles, threads);
  const int64_t most = std::max<int64_t>(1, args.hidden / kNarrowest);
  const int64_t even = ceil_div(args.hidden, std::min(wanted, most));
  const int64_t width = ceil_div(even, kMaxVectorWidth) * kMaxVectorWidth;
  const int64_t blocks = ceil_div(args.hidden, width);
  const int64_t elements = static_cast<int64_t>(given.rows.size()) * args.hidden;
  parallel_over(blocks * parts, elements, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t column = item / parts * width;
      const Part& part = given.parts[item % parts];
      const int64_t at = item % parts * args.hidden + column;
      kernel(args.x, given.rows.data() + part.begin, part.count, column,
             std::min(args.hidden, column + width), mean + at, m2 + at);
    }
  });
}

// Chan, Golub and LeVeque (1983), equations 1.5, part by part in the columns `begin` to `end`.
void merge(const MomentsArgs& args, const std::vector<Part>& parts, const double* mean,
           const double* m2, int64_t begin, int64_t end) {
  for (size_t p = 0; p < parts.size(); ++p) {
    const Part& part = parts[p];
    double* total = args.mean + part.group * args.hidden;
    double* total_m2 = args.m2 + part.group * args.hidden;
    const double* own = mean + p * args.hidden;
    const double* own_m2 = m2 + p * args.hidden;
    if (part.before == 0) {
      std::copy(own + begin, own + end, total + begin);
      std::copy(own_m2 + begin, own_m2 + end, total_m2 + begin);
      continue;
    }
    const double share =
        static_cast<double>(part.count) / static_cast<double>(part.before + part.count);
    const double weight = static_cast<double>(part.before) * share;
    for (int64_t k = begin; k < end; ++k) {
      const double delta = own[k] - total[k];
      total[k] += delta * share;
      total_m2[k] += own_m2[k] + delta * delta * weight;
    }
  }
}

}  // namespace

void run_moments(const MomentsArgs& args) {
  if (args.tokens == 0) return;
  require_known_groups(args);
  Parts listed(args);
  const int64_t bytes = 2 * args.hidden * static_cast<int64_t>(sizeof(double));
  for (int64_t begin = 0; begin < args.tokens;) {
    listed.clear();
    do {
      const int64_t end = std::min(args.tokens, begin + kTileRows);
      listed.add_tile(begin, end);
      begin = end;
    } while (begin < args.tokens &&
             static_cast<int64_t>(listed.parts.size()) * bytes < kScratchBytes);
    const int64_t size = listed.parts.size() * args.hidden;
    if (size == 0) continue;
    const std::unique_ptr<double[]> scratch(new double[2 * size]);
    double* mean = scratch.get();
    double* m2 = mean + size;
    moments_of(args, listed, mean, m2);
    parallel_over(args.hidden, size, [&](int64_t first, int64_t last) {
      merge(args, listed.parts, mean, m2, first, last);
    });
  }
  std::copy(listed.counts().begin(), listed.counts().end(), args.count);
}

}  // namespace faststeer
