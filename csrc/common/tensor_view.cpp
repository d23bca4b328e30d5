#include "common/tensor_view.h"

#include <utility>

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

int64_t size_of(Element element) {
  switch (element) {
    case Element::bfloat16:
    case Element::float16:
      return 2;
    case Element::float32:
    case Element::int32:
      return 4;
    default:
      return 8;  // or less: a view of another type is refused for that
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

Extent extent_of(const Rows& rows, int64_t count, int64_t hidden) {
  const char* begin = static_cast<const char*>(rows.data);
  if (rows.data == nullptr || count == 0) return {};
  const int64_t size = rows.dtype == DType::float32 ? 4 : 2;
  const int64_t row = hidden * size;
  const int64_t stride = count == 1 ? row : rows.stride * size;
  return {begin, begin + (count - 1) * stride + row, row, stride};
}

Extent extent_of_dense(const View& view) {
  const char* begin = static_cast<const char*>(view.data);
  const int64_t bytes = view.numel() * size_of(view.element);
  return {begin, begin + bytes, bytes, bytes};
}

bool overlap(Extent a, Extent b) {
  if (a.end <= b.begin || b.end <= a.begin || a.begin == a.end || b.begin == b.end) return false;
  if (b.begin < a.begin) std::swap(a, b);
  // A single row fits any stride.
  if (a.begin + a.row == a.end) a.stride = b.stride;
  if (b.begin + b.row == b.end) b.stride = a.stride;
  if (a.stride != b.stride || a.stride == 0) return true;
  const int64_t column = (b.begin - a.begin) % a.stride;
  return column < a.row || column + b.row > a.stride;
}

}  // namespace faststeer
