// From a torch tensor [..., H] to the plain rows that kernels read, and the checks on the way.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>

#include "cpu/steer_norm.h"

namespace faststeer {

using torch::stable::Tensor;

// A tensor's facts, asked for once: each question crosses the C ABI, and a call asks dozens.
struct View {
  const char* name;
  void* data;
  const int64_t* sizes;
  const int64_t* strides;
  int64_t dim;
  int32_t dtype;

  View(const Tensor& tensor, const char* name)
      : name(name),
        data(tensor.data_ptr()),
        sizes(tensor.sizes().data()),
        strides(tensor.strides().data()),
        dim(tensor.dim()) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  }

  int64_t last() const { return sizes[dim - 1]; }

  int64_t numel() const {
    int64_t count = 1;
    for (int64_t d = 0; d < dim; ++d) count *= sizes[d];
    return count;
  }

  std::string shape() const {
    std::string text = "[";
    for (int64_t d = 0; d < dim; ++d) text += (d == 0 ? "" : ", ") + std::to_string(sizes[d]);
    return text + "]";
  }

  bool same_shape(const View& other) const {
    bool same = dim == other.dim;
    for (int64_t d = 0; same && d < dim; ++d) same = sizes[d] == other.sizes[d];
    return same;
  }

  // The distance between rows where the leading dimensions are evenly spaced; -1 otherwise.
  int64_t row_stride() const {
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

  DType storage() const {
    if (dtype == aoti_torch_dtype_float32()) return DType::float32;
    if (dtype == aoti_torch_dtype_bfloat16()) return DType::bfloat16;
    STD_TORCH_CHECK(dtype == aoti_torch_dtype_float16(), name,
                    " must be float32, bfloat16 or float16");
    return DType::float16;
  }
};

// Rows to read. An unevenly spaced tensor is copied into `keep`, which has to live as long.
inline Rows input_rows(const View& view, const Tensor& tensor, std::optional<Tensor>& keep) {
  const int64_t stride = view.row_stride();
  if (stride >= 0) return {view.data, stride, view.storage()};
  keep = torch::stable::contiguous(tensor);
  return {keep->data_ptr(), view.last(), view.storage()};
}

inline Rows output_rows(const View& view, const View& residual) {
  STD_TORCH_CHECK(view.same_shape(residual) && view.dtype == residual.dtype, view.name,
                  " must have the residual's shape and dtype, ", residual.shape(), ", not ",
                  view.shape());
  const int64_t stride = view.row_stride();
  STD_TORCH_CHECK(stride >= 0, view.name,
                  " must have dense, evenly spaced rows; give a contiguous tensor");
  return {view.data, stride, view.storage()};
}

inline Tensor empty_dense_like(const Tensor& like) {
  const int64_t dim = like.dim();
  const int64_t* sizes = like.sizes().data();
  constexpr int64_t kMaxDim = 8;
  STD_TORCH_CHECK(dim <= kMaxDim, "the residual has ", dim, " dimensions; at most 8 are supported");
  int64_t strides[kMaxDim];
  int64_t step = 1;
  for (int64_t d = dim - 1; d >= 0; --d) {
    strides[d] = step;
    step *= sizes[d] > 0 ? sizes[d] : 1;
  }
  int32_t dtype, device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, dtype, device_type, device_index, &handle));
  return Tensor(handle);
}

}  // namespace faststeer
