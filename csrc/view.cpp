#include "view.h"

namespace faststeer {
namespace {

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

}  // namespace

std::string Device::name() const {
  switch (type) {
    case Type::cpu:
      return "cpu";
    case Type::cuda:
      return "cuda:" + std::to_string(index);
    default:
      return "another device";
  }
}

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

bool View::is_contiguous() const { return numel() <= 1 || row_stride() == last(); }

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

Rows rows(const View& view) {
  const int64_t stride = view.row_stride();
  if (stride < 0) {
    throw std::invalid_argument(std::string(view.name) +
                                " must have dense, evenly spaced rows; give a contiguous tensor");
  }
  return {view.data, stride, storage(view)};
}

}  // namespace faststeer
