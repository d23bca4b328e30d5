#include "common/checked_call.h"

#include "common/call_checks.h"

namespace faststeer {

void require_on(const Device& device, const View& view) {
  if (view.device == device) return;
  require(false, view.name, " is on ", view.device.name(), ", but the call's first tensor on ",
          device.name());
}

int64_t require_entries(const View& vectors, const View& index, const View& coefficient,
                        int64_t hidden, int64_t tokens) {
  if (vectors.dim != 2 || vectors.last() != hidden) {
    require(false, "vectors has shape ", vectors.shape(), "; expected [S, ", hidden, "]");
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
  return settings;
}

namespace {

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

bool same_memory(const Rows& a, const Rows& b) {
  return a.data == b.data && a.stride == b.stride && a.dtype == b.dtype;
}

struct NamedExtent {
  const char* name;
  Extent extent;
};

void require_apart(const NamedExtent& output, const NamedExtent& other) {
  if (!overlap(output.extent, other.extent)) return;
  require(false, output.name, " overlaps ", other.name, "; give it memory of its own");
}

// Kernels read a row's x and residual before they write that row, so an output may take the place
// of one of these. Everything else is read again for later rows.
void require_apart(const SteerNormArgs& args, const SteerNormCall& call) {
  const auto rows = [&](const Rows& operand) {
    return extent_of(operand, args.tokens, args.hidden);
  };
  const auto dense = [](const std::optional<View>& view) {
    return view ? extent_of_dense(*view) : Extent{};
  };
  const Extent x = rows(args.x), residual = rows(args.residual);
  const NamedExtent read_again[] = {
      {"weight", extent_of(args.weight, 1, args.hidden)},
      {"vectors", extent_of(args.vectors, args.stored, args.hidden)},
      {"index", dense(call.index)},
      {"coefficient", dense(call.coefficient)},
      {"modes", dense(call.modes)},
  };
  const auto check = [&](const char* name, const Rows& output) {
    const NamedExtent written{name, rows(output)};
    require(same_memory(output, args.x) || !overlap(written.extent, x), name,
            " overlaps x; they may be one tensor or apart");
    require(same_memory(output, args.residual) || !overlap(written.extent, residual), name,
            " overlaps residual; they may be one tensor or apart");
    for (const NamedExtent& input : read_again) require_apart(written, input);
  };
  check("residual_out", args.residual_out);
  if (args.out.data == nullptr) return;
  check("out", args.out);
  require(!overlap(rows(args.out), rows(args.residual_out)),
          "out and residual_out overlap; give two tensors");
}

void require_apart(const MomentsArgs& args, const MomentsCall& call) {
  const NamedExtent all[] = {
      {"count", extent_of_dense(call.count)},
      {"mean", extent_of_dense(call.mean)},
      {"m2", extent_of_dense(call.m2)},
      {"x", extent_of(args.x, args.tokens, args.hidden)},
      {"group", call.group ? extent_of_dense(*call.group) : Extent{}},
  };
  for (int output = 0; output < 3; ++output) {
    for (int other = output + 1; other < 5; ++other) require_apart(all[output], all[other]);
  }
}

void set_modes(SteerNormArgs& args, const View& modes) {
  if (modes.dim != 2 || modes.sizes[0] != args.stored || modes.last() != kModeNumbers ||
      modes.element != Element::float32 || !modes.is_contiguous()) {
    require(false, "modes must be a contiguous float32 tensor of shape [", args.stored, ", ",
            kModeNumbers, "], a line for each of the vectors, not ", modes.shape());
  }
  args.modes = static_cast<const float*>(modes.data);
}

void set_entries(SteerNormArgs& args, const View& vectors, const View& index,
                 const View& coefficient, int64_t tokens) {
  const int64_t settings = require_entries(vectors, index, coefficient, args.hidden, tokens);
  args.index = static_cast<const int32_t*>(index.data);
  args.coefficient = static_cast<const float*>(coefficient.data);
  args.entries = index.last();
  args.tokens_per_setting = tokens / settings;
  args.stored = vectors.sizes[0];
  args.vectors = rows(vectors);
}

void require_one_device(const SteerNormCall& call) {
  require_on(call.residual.device, call.residual_out);
  for (const auto* view : {&call.x, &call.weight, &call.out, &call.vectors, &call.index,
                           &call.coefficient, &call.modes, &call.inverse_rms}) {
    if (view->has_value()) require_on(call.residual.device, **view);
  }
}

void require_dense(const View& view, Element element, const char* name) {
  require(view.element == element && view.dim > 0 && view.is_contiguous(), view.name,
          " must be a contiguous ", name, " tensor");
}

}  // namespace

SteerNormArgs checked(const SteerNormCall& call) {
  const View& residual = call.residual;
  if (residual.dim < 1 || residual.last() < 1) {
    require(false, "residual has shape ", residual.shape(), "; expected [..., H]");
  }
  require_one_device(call);
  SteerNormArgs args{};
  args.hidden = residual.last();
  args.tokens = residual.numel() / args.hidden;
  args.eps = static_cast<float>(call.eps);
  args.weight_offset = static_cast<float>(call.weight_offset);
  args.residual = rows(residual);
  args.residual_out = output_rows(call.residual_out, residual);
  if (call.x) {
    if (!call.x->same_shape(residual)) {
      require(false, "x has shape ", call.x->shape(), ", but the residual has ", residual.shape(),
              "; they must be equal");
    }
    args.x = rows(*call.x);
  }
  require(call.weight.has_value() == call.out.has_value(),
          "weight and out go together: give both or neither");
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
  require(call.vectors.has_value() || !call.modes.has_value(), "modes are given without vectors");
  // Fresh, of the tokens' shape: only the op with autograd has it.
  if (call.inverse_rms) args.inverse_rms = static_cast<float*>(call.inverse_rms->data);
  if (args.tokens == 0) return args;
  if (call.vectors) set_entries(args, *call.vectors, *call.index, *call.coefficient, args.tokens);
  if (call.modes) set_modes(args, *call.modes);
  require_apart(args, call);
  return args;
}

MomentsArgs checked(const MomentsCall& call) {
  const View& x = call.x;
  require(x.dim >= 1 && x.last() >= 1, "x has shape ", x.shape(), "; expected [..., H]");
  for (const View* view : {&call.count, &call.mean, &call.m2}) require_on(x.device, *view);
  MomentsArgs args{};
  args.hidden = x.last();
  args.tokens = x.numel() / args.hidden;
  args.x = rows(x);
  require_dense(call.count, Element::int64, "int64");
  require_dense(call.mean, Element::float64, "float64");
  require_dense(call.m2, Element::float64, "float64");
  require(call.count.dim == 1 && call.count.numel() > 0, "count has shape ", call.count.shape(),
          "; expected [G]");
  args.groups = call.count.numel();
  for (const View* view : {&call.mean, &call.m2}) {
    require(view->dim == 2 && view->sizes[0] == args.groups && view->sizes[1] == args.hidden,
            view->name, " has shape ", view->shape(), "; expected [", args.groups, ", ",
            args.hidden, "]");
  }
  if (call.group) {
    require_on(x.device, *call.group);
    require_dense(*call.group, Element::int32, "int32");
    require(call.group->numel() == args.tokens, "group has shape ", call.group->shape(),
            "; expected one for each of the ", args.tokens, " rows of x");
    args.group = static_cast<const int32_t*>(call.group->data);
  } else {
    require(args.groups == 1, "there are ", args.groups, " groups: tell the group of each row");
  }
  require_apart(args, call);
  args.count = static_cast<int64_t*>(call.count.data);
  args.mean = static_cast<double*>(call.mean.data);
  args.m2 = static_cast<double*>(call.m2.data);
  return args;
}

}  // namespace faststeer
