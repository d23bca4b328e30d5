#include "cpu/parallel.h"

#include <torch/csrc/stable/ops.h>

#include <memory>

#include "common/tensor_view.h"
#include "cpu/dispatch.h"

namespace faststeer {
namespace {

// Elements per thread below which a second thread does not pay: with rows of 4096 bfloat16
// two threads draw level with one at 8 rows and win from 12 on (fork and join cost about 5 us).
constexpr int64_t kElementsPerThread = 16384;

}  // namespace

void require_known_vectors(const int32_t* index, int64_t count, int64_t stored) {
  for (int64_t i = 0; i < count; ++i) {
    require(index[i] >= -1 && index[i] < stored, "index holds ", index[i],
            "; expected -1 for none, or a row of vectors, 0 to ", stored - 1);
  }
}

void run_steer_norm(const SteerNormArgs& args) {
  if (args.tokens == 0) return;
  if (args.entries > 0) {
    const int64_t settings = args.tokens / args.tokens_per_setting;
    require_known_vectors(args.index, settings * args.entries, args.stored);
  }

  const SteerNormKernel kernel = current_isa().steer_norm;
  const auto work = [&](int64_t begin, int64_t end) {
    std::unique_ptr<float[]> scratch;
    const int64_t rows = args.modes != nullptr ? 2 : args.entries > 1 ? 1 : 0;
    if (rows > 0) scratch.reset(new float[rows * (args.hidden + kMaxVectorWidth)]);
    kernel(args, begin, end, scratch.get());
  };
  const int64_t grain = kElementsPerThread / args.hidden + 1;
  if (args.tokens <= grain) {
    work(0, args.tokens);
  } else {
    torch::stable::parallel_for(0, args.tokens, grain, work);
  }
}

}  // namespace faststeer
