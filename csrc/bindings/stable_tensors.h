// torch's tensors through its stable ABI: read as views, allocated for results.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "common/checked_call.h"

namespace faststeer {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// Throws std::invalid_argument for None, which the dispatcher passes on where a schema asks for a
// tensor.
View view_of(const Tensor& tensor, const char* name);

// A contiguous tensor of that shape on the device of `like`, of its dtype or the dtype given.
// torch::stable::empty_like goes through the dispatcher by name; this is one call of the C ABI.
Tensor empty_dense(const Tensor& like, const int64_t* sizes, int64_t dim, int32_t dtype);
Tensor empty_dense_like(const Tensor& like);
// A float32 for each of the residual's rows.
Tensor empty_inverse_rms(const Tensor& residual);

// An input that a kernel can read: rows that are not evenly spaced are copied first.
struct Input {
  Tensor tensor;
  View view;

  Input(const Tensor& given, const char* name);
};

// The steering arguments of an op.
struct Entries {
  const MaybeTensor &vectors, &index, &coefficient, &modes;
};

// The arguments of one call, kept alive while it runs.
class SteerNormInputs {
 public:
  SteerNormInputs(const MaybeTensor& x, const Tensor& residual, const Tensor* weight,
                  const Entries& entries);

  // Without `weight` there is no `out`, and the other two do not matter.
  SteerNormArgs into(const Tensor& residual_out, const Tensor* out = nullptr, double eps = 0.0,
                     double weight_offset = 0.0, const Tensor* inverse_rms = nullptr) const;

 private:
  Input residual_;
  std::optional<Input> x_, weight_, vectors_, index_, coefficient_, modes_;
};

class MomentsInputs {
 public:
  MomentsInputs(const Tensor& x, const MaybeTensor& group);

  MomentsArgs into(const Tensor& count, const Tensor& mean, const Tensor& m2) const;

 private:
  Input x_;
  MaybeTensor group_;
};

}  // namespace faststeer
