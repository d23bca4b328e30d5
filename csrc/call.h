// A call of the op, in plain terms: tensors as views, checked once, then run on rows in parallel.
//
// Two doors lead here: torch's dispatcher (ops.cpp) and a direct Python call (direct.cpp).
#pragma once

#include <stdint.h>

#include <optional>
#include <string>

#include "cpu/steer_norm.h"

namespace faststeer {

enum class Element { float32, bfloat16, float16, int32, other };

// A CPU tensor's facts. `sizes` and `strides` (in elements) are borrowed.
struct View {
  const char* name;
  void* data;
  const int64_t* sizes;
  const int64_t* strides;
  int64_t dim;
  Element element;

  int64_t last() const { return sizes[dim - 1]; }
  int64_t numel() const;
  std::string shape() const;
  bool same_shape(const View& other) const;
  bool is_contiguous() const;
  // The distance between rows where the leading dimensions are evenly spaced; -1 otherwise.
  int64_t row_stride() const;
};

// Everything the op takes. Without `weight` there is no `out`: the residual alone is updated.
struct Call {
  View residual, residual_out;
  std::optional<View> x, weight, out, vectors, index, coefficient;
  double eps = 0.0;
};

// Throws std::invalid_argument, before anything is written, where the call makes no sense.
void run_on_cpu(const Call& call);

}  // namespace faststeer
