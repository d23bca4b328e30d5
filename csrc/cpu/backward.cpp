// Blocks of rows in parallel, and then their sums in the order of the blocks: equal bits whatever
// the number of threads.
//
// The gradient of a vector is that of h, summed over the rows of each segment and scattered by the
// entries that name it, in double. What blocks leave is bounded: they are taken in waves.
#include "cpu/backward.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "common/tensor_view.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/steer_norm.h"

namespace faststeer {
namespace {

// Rows that meet in float32. More would cost digits, and fewer cost time: each block's sums are
// written once and read once.
constexpr int64_t kMostRows = 64;
// Blocks that a call of fewer rows has, so that there is work for as many threads.
constexpr int64_t kWantedBlocks = 32;
// As for steer_add_rms_norm: fewer elements are not worth waking a second thread.
constexpr int64_t kElementsPerThread = 16384;
constexpr int64_t kWaveBytes = int64_t{32} << 20;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class Work>
void parallel_over(int64_t count, int64_t elements, const Work& work) {
  if (elements <= kElementsPerThread) {
    work(int64_t{0}, count);
  } else {
    const int64_t grain = std::max<int64_t>(1, count * kElementsPerThread / elements);
    torch::stable::parallel_for(0, count, grain, work);
  }
}

class Backward {
 public:
  explicit Backward(const BackwardArgs& args)
      : args_(args),
        kernels_(current_isa().backward),
        padded_(args.hidden + kMaxVectorWidth),
        vectors_(args.grad_vectors.data != nullptr && args.entries > 0),
        coefficients_(args.grad_coefficient != nullptr && args.entries > 0) {
    const int64_t fewest = std::min(kMostRows, ceil_div(kElementsPerThread, args.hidden));
    rows_ = std::clamp(ceil_div(args.tokens, kWantedBlocks), fewest, kMostRows);
    blocks_ = ceil_div(args.tokens, rows_);
    if (args.grad_weight.data != nullptr) weight_sums_.resize(args.hidden);
    if (args.grad_vectors.data != nullptr) vector_sums_.resize(args.stored * args.hidden);
    if (coefficients_) coefficient_sums_.resize(args.settings * args.entries);
  }

  void run() {
    const int64_t segments = rows_ / args_.tokens_per_setting + 2;  // of a block, at most
    const int64_t kept = (weight_sums_.empty() ? 0 : 1) + (vectors_ ? segments : 0);
    const int64_t bytes = std::max<int64_t>(1, kept * padded_ * int64_t{sizeof(float)});
    const int64_t blocks = std::max<int64_t>(1, kWaveBytes / bytes);
    for (int64_t begin = 0; begin < blocks_; begin += blocks) {
      run_wave(begin, std::min(blocks_, begin + blocks));
    }
    finish();
  }

 private:
  int64_t setting_of(int64_t n) const { return n / args_.tokens_per_setting; }
  int64_t first_row(int64_t block) const { return block * rows_; }
  int64_t end_row(int64_t block) const { return std::min(args_.tokens, (block + 1) * rows_); }
  // Each block and each setting starts another one.
  int64_t segment_of(int64_t block, int64_t setting) const { return block + setting; }

  // Calls run(segment, setting) for the segments of some blocks, in order.
  template <class Run>
  void each_segment(int64_t begin, int64_t end, const Run& run) const {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t last = setting_of(end_row(b) - 1);
      for (int64_t r = setting_of(first_row(b)); r <= last; ++r) run(segment_of(b, r), r);
    }
  }

  void run_wave(int64_t begin, int64_t end) {
    const int64_t base = segment_of(begin, setting_of(first_row(begin)));
    const int64_t segments = segment_of(end - 1, setting_of(end_row(end - 1) - 1)) + 1 - base;
    const int64_t rows = first_row(end) - first_row(begin);
    std::unique_ptr<float[]> weights, sums;
    std::unique_ptr<double[]> dots;
    if (!weight_sums_.empty()) weights.reset(new float[(end - begin) * padded_]);
    if (vectors_) sums.reset(new float[segments * padded_]);
    if (coefficients_) dots.reset(new double[segments * args_.entries]);

    parallel_over(end - begin, rows * args_.hidden, [&](int64_t first, int64_t last) {
      const std::unique_ptr<float[]> scratch(new float[2 * padded_]);
      for (int64_t b = begin + first; b < begin + last; ++b) {
        const int64_t segment = segment_of(b, setting_of(first_row(b))) - base;
        kernels_.rows(args_, first_row(b), end_row(b),
                      {weights ? weights.get() + (b - begin) * padded_ : nullptr,
                       sums ? sums.get() + segment * padded_ : nullptr,
                       dots ? dots.get() + segment * args_.entries : nullptr, scratch.get()});
      }
    });
    if (weights) add_weights(weights.get(), end - begin);
    if (sums) scatter(sums.get(), begin, end, base);
    if (dots) add_coefficients(dots.get(), begin, end, base);
  }

  void add_weights(const float* weights, int64_t blocks) {
    parallel_over(args_.hidden, blocks * args_.hidden, [&](int64_t first, int64_t last) {
      for (int64_t b = 0; b < blocks; ++b) {
        kernels_.add_scaled(1.0, weights + b * padded_ + first, last - first,
                            weight_sums_.data() + first);
      }
    });
  }

  // A thread has some columns of all vectors.
  void scatter(const float* sums, int64_t begin, int64_t end, int64_t base) {
    const int64_t segments = segment_of(end - 1, setting_of(end_row(end - 1) - 1)) + 1 - base;
    const int64_t elements = segments * args_.entries * args_.hidden;
    parallel_over(args_.hidden, elements, [&](int64_t first, int64_t last) {
      each_segment(begin, end, [&](int64_t segment, int64_t setting) {
        const float* sum = sums + (segment - base) * padded_ + first;
        for (int64_t k = 0; k < args_.entries; ++k) {
          const int64_t at = setting * args_.entries + k;
          if (args_.index[at] < 0) continue;
          kernels_.add_scaled(args_.coefficient[at], sum, last - first,
                              vector_sums_.data() + args_.index[at] * args_.hidden + first);
        }
      });
    });
  }

  void add_coefficients(const double* dots, int64_t begin, int64_t end, int64_t base) {
    each_segment(begin, end, [&](int64_t segment, int64_t setting) {
      for (int64_t k = 0; k < args_.entries; ++k) {
        const int64_t at = setting * args_.entries + k;
        if (args_.index[at] < 0) continue;
        coefficient_sums_[at] += dots[(segment - base) * args_.entries + k];
      }
    });
  }

  void finish() {
    if (!weight_sums_.empty()) {
      kernels_.round_sums(weight_sums_.data(), args_.hidden, args_.grad_weight, 0);
    }
    if (args_.grad_vectors.data != nullptr) {
      parallel_over(args_.stored, args_.stored * args_.hidden, [&](int64_t first, int64_t last) {
        for (int64_t s = first; s < last; ++s) {
          kernels_.round_sums(vector_sums_.data() + s * args_.hidden, args_.hidden,
                              args_.grad_vectors, s);
        }
      });
    }
    for (size_t i = 0; i < coefficient_sums_.size(); ++i) {
      args_.grad_coefficient[i] = static_cast<float>(coefficient_sums_[i]);
    }
  }

  const BackwardArgs& args_;
  const BackwardKernels& kernels_;
  const int64_t padded_;
  const bool vectors_, coefficients_;  // have entries
  int64_t rows_;                       // of a block
  int64_t blocks_;
  std::vector<double> weight_sums_, vector_sums_, coefficient_sums_;
};

}  // namespace

void run_backward(const BackwardArgs& given) {
  BackwardArgs args = given;
  if (args.tokens_per_setting == 0) args.tokens_per_setting = 1;  // without entries or tokens
  require_known_vectors(args.index, args.settings * args.entries, args.stored);
  Backward(args).run();
}

}  // namespace faststeer
