#include "call.h"

#include <torch/csrc/stable/ops.h>

#include <memory>
#include <sstream>
#include <stdexcept>

#include "cpu/isa.h"

namespace faststeer {
namespace {

// Elements a thread should have before a second one is worth waking: with rows of 4096 bfloat16
// two threads draw level with one at 8 rows and win from 12 on (fork and join cost about 5 us).
constexpr int64_t kElementsPerThread = 16384;

template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

DType storage(const View& view) {
  switch (view.element) {
    case Element::float32:
      return DType::float32;
    case Element::bfloat16:
      return DType::bfloat16;
    case Element::float16:
      return DType::float16;
    default:
      throw std::invalid_argument(std::string(view.name) + " must be float32, bfloat16 or float16");
  }
}

Rows rows(const View& view) {
  const int64_t stride = view.row_stride();
  if (stride < 0) {
    throw std::invalid_argument(std::string(view.name) +
                                " must have dense, evenly spaced rows; give a contiguous tensor");
  }
  return {view.data, stride, storage(view)};
}

Rows output_rows(const View& view, const View& residual) {
  if (!view.same_shape(residual) || view.element != residual.element) {
    throw std::invalid_argument(std::string(view.name) + " has shape " + view.shape() +
                                "; expected the residual's shape and dtype, " + residual.shape());
  }
  const Rows result = rows(view);
  if (result.stride < view.last() && view.numel() > view.last()) {
    throw std::invalid_argument(std::string(view.name) +
                                " has rows that overlap, as an expanded tensor has");
  }
  return result;
}

// Whether two tensors of one shape share memory, other than by being the same.
bool overlap(const Rows& a, const Rows& b, int64_t count, int64_t hidden) {
  const auto size = [](const Rows& r) { return r.dtype == DType::float32 ? 4 : 2; };
  const char* a_begin = static_cast<const char*>(a.data);
  const char* b_begin = static_cast<const char*>(b.data);
  const char* a_end = a_begin + ((count - 1) * a.stride + hidden) * size(a);
  const char* b_end = b_begin + ((count - 1) * b.stride + hidden) * size(b);
  if (a_end <= b_begin || b_end <= a_begin) return false;
  if (a.stride != b.stride || a.dtype != b.dtype) return true;
  // Of one spacing: side by side in the same wide rows, or not.
  const int64_t apart = (a_begin < b_begin ? b_begin - a_begin : a_begin - b_begin) / size(a);
  const int64_t column = apart % a.stride;
  return apart != 0 && (column < hidden || a.stride - column < hidden);
}

void require_apart(const SteerNormArgs& args, int64_t tokens) {
  const auto clash = [&](const Rows& written, const Rows& other) {
    return written.data != nullptr && other.data != nullptr &&
           overlap(written, other, tokens, args.hidden);
  };
  for (const Rows& written : {args.out, args.residual_out}) {
    require(!clash(written, args.residual) && !clash(written, args.x),
            "an output overlaps an input; they may be one tensor or apart");
  }
  require(args.out.data == nullptr ||
              (args.out.data != args.residual_out.data && !clash(args.out, args.residual_out)),
          "out and residual_out overlap; give two tensors");
}

void set_entries(SteerNormArgs& args, const View& vectors, const View& index,
                 const View& coefficient, int64_t tokens) {
  if (vectors.dim != 2 || vectors.last() != args.hidden) {
    require(false, "vectors has shape ", vectors.shape(), "; expected [S, ", args.hidden, "]");
  }
  if (index.dim != 2 || index.element != Element::int32 || !index.is_contiguous()) {
    require(false, "index must be a contiguous int32 tensor [R, K], not ", index.shape());
  }
  if (!coefficient.same_shape(index) || coefficient.element != Element::float32 ||
      !coefficient.is_contiguous()) {
    require(false, "coefficient must be a contiguous float32 tensor of index's shape, ",
            index.shape(), ", not ", coefficient.shape());
  }
  const int64_t settings = index.sizes[0];
  require(settings > 0 && tokens % settings == 0, "index has ", settings,
          " rows, which do not divide the ", tokens, " tokens");
  args.index = static_cast<const int32_t*>(index.data);
  args.coefficient = static_cast<const float*>(coefficient.data);
  args.entries = index.last();
  args.tokens_per_setting = tokens / settings;
  const int64_t stored = vectors.sizes[0];
  for (int64_t i = 0; i < settings * args.entries; ++i) {
    require(args.index[i] >= -1 && args.index[i] < stored, "index holds ", args.index[i],
            "; expected -1 for none, or a row of vectors, 0 to ", stored - 1);
  }
  args.vectors = rows(vectors);
}

SteerNormArgs checked(const Call& call) {
  const View& residual = call.residual;
  SteerNormArgs args{};
  args.hidden = residual.last();
  args.eps = static_cast<float>(call.eps);
  args.residual = rows(residual);
  args.residual_out = output_rows(call.residual_out, residual);
  if (call.x) {
    if (!call.x->same_shape(residual)) {
      require(false, "x has shape ", call.x->shape(), ", but the residual has ", residual.shape(),
              "; they must be equal");
    }
    args.x = rows(*call.x);
  }
  if (call.weight) {
    if (call.weight->dim != 1 || call.weight->last() != args.hidden) {
      require(false, "weight has shape ", call.weight->shape(), "; expected [", args.hidden, "]");
    }
    args.weight = rows(*call.weight);
    args.out = output_rows(*call.out, residual);
  }
  require(call.vectors.has_value() == call.index.has_value() &&
              call.vectors.has_value() == call.coefficient.has_value(),
          "vectors, index and coefficient go together: give all three or none");
  return args;
}

}  // namespace

int64_t View::numel() const {
  int64_t count = 1;
  for (int64_t d = 0; d < dim; ++d) count *= sizes[d];
  return count;
}

std::string View::shape() const {
  std::string text = "[";
  for (int64_t d = 0; d < dim; ++d) text += (d == 0 ? "" : ", ") + std::to_string(sizes[d]);
  return text + "]";
}

bool View::same_shape(const View& other) const {
  bool same = dim == other.dim;
  for (int64_t d = 0; same && d < dim; ++d) same = sizes[d] == other.sizes[d];
  return same;
}

bool View::is_contiguous() const {
  return row_stride() == last() || numel() <= 1 || (dim == 2 && sizes[0] == 1);
}

int64_t View::row_stride() const {
  if (numel() == 0) return last();  // nothing is read, however it is laid out
  if (strides[dim - 1] != 1 && sizes[dim - 1] != 1) return -1;
  int64_t stride = sizes[dim - 1];
  int64_t expected = -1;  // what the next dimension outwards has to step by
  for (int64_t d = dim - 2; d >= 0; --d) {
    if (sizes[d] == 1) continue;
    if (expected < 0) {
      stride = strides[d];
    } else if (strides[d] != expected) {
      return -1;
    }
    expected = strides[d] * sizes[d];
  }
  return stride;
}

void run_on_cpu(const Call& call) {
  if (call.residual.dim < 1 || call.residual.last() < 1) {
    require(false, "residual has shape ", call.residual.shape(), "; expected [..., H]");
  }
  SteerNormArgs args = checked(call);
  const int64_t tokens = call.residual.numel() / args.hidden;
  if (tokens == 0) return;
  require_apart(args, tokens);
  if (call.vectors) set_entries(args, *call.vectors, *call.index, *call.coefficient, tokens);

  const SteerNormKernel kernel = current_isa().steer_norm;
  const auto work = [&](int64_t begin, int64_t end) {
    std::unique_ptr<float[]> scratch;
    if (args.entries > 1) scratch.reset(new float[args.hidden + kMaxVectorWidth]);
    kernel(args, begin, end, scratch.get());
  };
  const int64_t grain = kElementsPerThread / args.hidden + 1;
  if (tokens <= grain) {
    work(0, tokens);
  } else {
    torch::stable::parallel_for(0, tokens, grain, work);
  }
}

}  // namespace faststeer
