#include "common/call_checks.h"
#include "common/checked_call.h"

namespace faststeer {
namespace {

Rows rows_of(const std::optional<View>& view) { return view ? rows(*view) : Rows{}; }

void require_like(const View& view, const View& gradient) {
  require(view.same_shape(gradient) && view.element == gradient.element, view.name, " has shape ",
          view.shape(), "; expected the shape and dtype of ", gradient.name, ", ",
          gradient.shape());
}

void set_norm(BackwardArgs& args, const BackwardCall& call, const View& grad_out) {
  require(call.h && call.weight && call.inverse_rms, "grad_out needs h, weight and inverse_rms");
  require_like(*call.h, grad_out);
  require(call.weight->dim == 1 && call.weight->last() == args.hidden, "weight has shape ",
          call.weight->shape(), "; expected [", args.hidden, "]");
  const View& inverse_rms = *call.inverse_rms;
  require(inverse_rms.element == Element::float32 && inverse_rms.dim == 1 &&
              inverse_rms.is_contiguous() && inverse_rms.numel() == args.tokens,
          "inverse_rms must be a contiguous float32 tensor [", args.tokens, "], not ",
          inverse_rms.shape());
  args.grad_out = rows(grad_out);
  args.h = rows(*call.h);
  args.weight = rows(*call.weight);
  args.inverse_rms = static_cast<const float*>(inverse_rms.data);
  args.weight_offset = static_cast<float>(call.weight_offset);
}

void set_entries(BackwardArgs& args, const BackwardCall& call) {
  require(call.vectors.has_value() == call.index.has_value() &&
              call.vectors.has_value() == call.coefficient.has_value(),
          "vectors, index and coefficient go together: give all three or none");
  require(call.vectors.has_value() || !(call.grad_vectors || call.grad_coefficient),
          "gradients of entries need vectors, index and coefficient");
  if (!call.vectors) return;
  args.settings =
      require_entries(*call.vectors, *call.index, *call.coefficient, args.hidden, args.tokens);
  args.vectors = rows(*call.vectors);
  args.stored = call.vectors->sizes[0];
  args.index = static_cast<const int32_t*>(call.index->data);
  args.coefficient = static_cast<const float*>(call.coefficient->data);
  args.entries = call.index->last();
  args.tokens_per_setting = args.tokens / args.settings;
}

}  // namespace

BackwardArgs checked(const BackwardCall& call) {
  const std::optional<View>& first = call.grad_out ? call.grad_out : call.grad_residual;
  require(first.has_value(), "there is no gradient to pass back");
  require(first->dim >= 1 && first->last() >= 1, first->name, " has shape ", first->shape(),
          "; expected [..., H]");
  for (const auto* view : {&call.grad_residual, &call.h, &call.weight, &call.inverse_rms,
                           &call.vectors, &call.index, &call.coefficient}) {
    if (view->has_value()) require_on(first->device, **view);
  }
  BackwardArgs args{};
  args.hidden = first->last();
  args.tokens = first->numel() / args.hidden;
  if (call.grad_residual) require_like(*call.grad_residual, *first);
  args.grad_residual = rows_of(call.grad_residual);
  if (call.grad_out) set_norm(args, call, *call.grad_out);
  set_entries(args, call);
  args.grad_h = rows_of(call.grad_h);
  args.grad_x = rows_of(call.grad_x);
  args.grad_weight = rows_of(call.grad_weight);
  args.grad_vectors = rows_of(call.grad_vectors);
  if (call.grad_coefficient) {
    args.grad_coefficient = static_cast<float*>(call.grad_coefficient->data);
  }
  return args;
}

}  // namespace faststeer
