// Schemas, argument checks and CPU registration of the ops, through torch's stable ABI.
//
// The meaning of every op is faststeer/reference.py; the docstrings are in faststeer/ops.py.
#include <memory>
#include <tuple>

#include "cpu/isa.h"
#include "tensor_rows.h"

namespace faststeer {
namespace {

using MaybeTensor = std::optional<Tensor>;

// Elements a thread should have before a second one is worth waking: on two cores 8 rows of 4096
// took 6.4 us on one thread and 4.6 on two, 4 rows 3.4 and 3.6.
constexpr int64_t kElementsPerThread = 16384;

// Tensors that a call made and its kernel reads.
struct Copies {
  std::optional<Tensor> residual, x, weight, vectors;
};

void set_entries(SteerNormArgs& args, Copies& copies, const Tensor& vectors, const Tensor& index,
                 const Tensor& coefficient, int64_t tokens) {
  const View v(vectors, "vectors"), i(index, "index"), c(coefficient, "coefficient");
  STD_TORCH_CHECK(v.dim == 2 && v.last() == args.hidden, "vectors has shape ", v.shape(),
                  "; expected [S, ", args.hidden, "]");
  STD_TORCH_CHECK(i.dim == 2 && i.dtype == aoti_torch_dtype_int32() && index.is_contiguous(),
                  "index must be a contiguous int32 tensor [R, K], not ", i.shape());
  STD_TORCH_CHECK(c.same_shape(i) && c.dtype == aoti_torch_dtype_float32() &&
                      coefficient.is_contiguous(),
                  "coefficient must be a contiguous float32 tensor of index's shape, ", i.shape(),
                  ", not ", c.shape());
  const int64_t settings = i.sizes[0];
  STD_TORCH_CHECK(settings > 0 && tokens % settings == 0, "index has ", settings,
                  " rows, which do not divide the ", tokens, " tokens");
  args.index = static_cast<const int32_t*>(i.data);
  args.coefficient = static_cast<const float*>(c.data);
  args.entries = i.last();
  args.tokens_per_setting = tokens / settings;
  for (int64_t k = 0; k < settings * args.entries; ++k) {
    STD_TORCH_CHECK(args.index[k] >= -1 && args.index[k] < v.sizes[0], "index holds ",
                    args.index[k], "; expected -1 for none, or a row of vectors, 0 to ",
                    v.sizes[0] - 1);
  }
  args.vectors = input_rows(v, vectors, copies.vectors);
}

void launch(const SteerNormArgs& args, int64_t tokens) {
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

void run(const MaybeTensor& x, const Tensor& residual, const Tensor* weight, double eps,
         const MaybeTensor& vectors, const MaybeTensor& index, const MaybeTensor& coefficient,
         const Tensor* out, const Tensor& residual_out) {
  const View r(residual, "residual");
  STD_TORCH_CHECK(r.dim >= 1 && r.last() > 0, "residual has shape ", r.shape(),
                  "; expected [..., H]");
  Copies copies;
  SteerNormArgs args{};
  args.hidden = r.last();
  args.eps = static_cast<float>(eps);
  args.residual = input_rows(r, residual, copies.residual);
  args.residual_out = output_rows(View(residual_out, "residual_out"), r);
  if (x.has_value()) {
    const View view(*x, "x");
    STD_TORCH_CHECK(view.same_shape(r), "x has shape ", view.shape(), ", but the residual has ",
                    r.shape(), "; they must be equal");
    args.x = input_rows(view, *x, copies.x);
  }
  if (weight != nullptr) {
    const View view(*weight, "weight");
    STD_TORCH_CHECK(view.dim == 1 && view.last() == args.hidden, "weight has shape ", view.shape(),
                    "; expected [", args.hidden, "]");
    args.weight = input_rows(view, *weight, copies.weight);
    args.out = output_rows(View(*out, "out"), r);
  }
  const int64_t tokens = r.numel() / args.hidden;
  STD_TORCH_CHECK(vectors.has_value() == index.has_value() &&
                      vectors.has_value() == coefficient.has_value(),
                  "vectors, index and coefficient go together: give all three or none");
  if (vectors.has_value()) set_entries(args, copies, *vectors, *index, *coefficient, tokens);
  if (tokens > 0) launch(args, tokens);
}

std::tuple<Tensor, Tensor> steer_add_rms_norm(const MaybeTensor& x, const Tensor& residual,
                                              const Tensor& weight, double eps,
                                              const MaybeTensor& vectors, const MaybeTensor& index,
                                              const MaybeTensor& coefficient) {
  Tensor out = empty_dense_like(residual);
  Tensor residual_out = empty_dense_like(residual);
  run(x, residual, &weight, eps, vectors, index, coefficient, &out, residual_out);
  return {std::move(out), std::move(residual_out)};
}

void steer_add_rms_norm_out(const MaybeTensor& x, const Tensor& residual, const Tensor& weight,
                            double eps, const MaybeTensor& vectors, const MaybeTensor& index,
                            const MaybeTensor& coefficient, const Tensor& out,
                            const Tensor& residual_out) {
  run(x, residual, &weight, eps, vectors, index, coefficient, &out, residual_out);
}

Tensor steer_add(const MaybeTensor& x, const Tensor& residual, const MaybeTensor& vectors,
                 const MaybeTensor& index, const MaybeTensor& coefficient) {
  Tensor residual_out = empty_dense_like(residual);
  run(x, residual, nullptr, 0.0, vectors, index, coefficient, nullptr, residual_out);
  return residual_out;
}

}  // namespace
}  // namespace faststeer

STABLE_TORCH_LIBRARY(faststeer, m) {
  m.def(
      "steer_add_rms_norm(Tensor? x, Tensor residual, Tensor weight, float eps, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None) -> (Tensor, Tensor)");
  m.def(
      "steer_add_rms_norm.out(Tensor? x, Tensor residual, Tensor weight, float eps, "
      "Tensor? vectors, Tensor? index, Tensor? coefficient, "
      "Tensor(a!) out, Tensor(b!) residual_out) -> ()");
  m.def(
      "nop(Tensor? x, Tensor residual, Tensor weight, float eps, "
      "Tensor? vectors, Tensor? index, Tensor? coefficient, "
      "Tensor(a!) out, Tensor(b!) residual_out) -> ()");
  m.def(
      "steer_add(Tensor? x, Tensor residual, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None) -> Tensor");
  // The same functions with autograd: torch runs Python on every call of an op that has it, even
  // under no_grad, so the ops above stay without.
  m.def(
      "steer_add_rms_norm_autograd(Tensor? x, Tensor residual, Tensor weight, float eps, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None) -> (Tensor, Tensor)");
  m.def(
      "steer_add_autograd(Tensor? x, Tensor residual, "
      "Tensor? vectors=None, Tensor? index=None, Tensor? coefficient=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(faststeer, CPU, m) {
  m.impl("steer_add_rms_norm", TORCH_BOX(&faststeer::steer_add_rms_norm));
  m.impl("steer_add_rms_norm.out", TORCH_BOX(&faststeer::steer_add_rms_norm_out));
  m.impl("nop", +[](StableIValue* s, uint64_t n, uint64_t){
    for (int i : {1,2,7,8}) aoti_torch_delete_tensor_object(torch::stable::detail::to<AtenTensorHandle>(s[i]));
    for (int i : {0,4,5,6}) { auto* p = torch::stable::detail::to<StableIValue*>(s[i]); if (p) { aoti_torch_delete_tensor_object(torch::stable::detail::to<AtenTensorHandle>(*p)); delete p; } }
  });
  m.impl("steer_add", TORCH_BOX(&faststeer::steer_add));
  m.impl("steer_add_rms_norm_autograd", TORCH_BOX(&faststeer::steer_add_rms_norm));
  m.impl("steer_add_autograd", TORCH_BOX(&faststeer::steer_add));
}
