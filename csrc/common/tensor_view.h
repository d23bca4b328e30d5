// A tensor as plain facts, whichever interface they were read through.
#pragma once

#include <stdint.h>

#include <sstream>
#include <stdexcept>
#include <string>

#include "common/kernel_args.h"

namespace faststeer {

enum class Element { float32, bfloat16, float16, float64, int32, int64, other };

// Where a tensor is stored; index 0 on the CPU.
struct Device {
  enum class Type { cpu, cuda, other };
  Type type;
  int32_t index;

  bool operator==(const Device& other) const { return type == other.type && index == other.index; }
  std::string name() const;
};

// `sizes` and `strides` (in elements) are borrowed.
struct View {
  const char* name;
  void* data;
  const int64_t* sizes;
  const int64_t* strides;
  int64_t dim;
  Element element;
  Device device;

  int64_t last() const { return sizes[dim - 1]; }
  int64_t numel() const;
  std::string shape() const;
  bool same_shape(const View& other) const;
  bool is_contiguous() const;
  // The distance between rows where the leading dimensions are evenly spaced; -1 otherwise.
  int64_t row_stride() const;
};

// The view's rows. Throws std::invalid_argument for a dtype or a layout that no kernel reads.
Rows rows(const View& view);

// The bytes that evenly spaced rows cover.
struct Extent {
  const char* begin;
  const char* end;
  int64_t row;     // bytes of one
  int64_t stride;  // bytes from one to the next
};

Extent extent_of(const Rows& rows, int64_t count, int64_t hidden);
Extent extent_of_dense(const View& view);

// Whether writing one could change the other. Exact where rows are equally far apart, as slices of
// one tensor are; otherwise by first and last byte.
bool overlap(Extent a, Extent b);

// Throws std::invalid_argument of `parts` unless `condition` holds.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

}  // namespace faststeer
