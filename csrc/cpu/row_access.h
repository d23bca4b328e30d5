// Access to a row, one vector at a time: how its operands of any dtype are read, and how it is
// stored. Included once per ISA, after that ISA's SIMD layer.
#pragma once

#include "cpu/steer_norm.h"

namespace faststeer {
namespace FASTSTEER_ISA_NAMESPACE {

template <class T>
struct Typed {
  const T* row;
  Typed(const Rows& rows, int64_t n) : row(static_cast<const T*>(rows.data) + n * rows.stride) {}
  template <class Order, class... Lanes>
  Vec at(int64_t j, Order order, Lanes... lanes) const {
    return load(row + j, order, lanes...);
  }
};

// The entries' sum, kept in whatever order the lanes had when it was made; padded to whole vectors.
struct Scratch {
  float* row;
  template <class Order, class... Lanes>
  Vec at(int64_t j, Order, Lanes...) const {
    return load(row + j, InOrder{});
  }
};

// An operand whose dtype is not the residual's, or that may be absent: a predicted branch a vector.
struct Mixed {
  const char* row;
  DType dtype;
  Mixed(const Rows& rows, int64_t n) : row(static_cast<const char*>(rows.data)), dtype(rows.dtype) {
    if (row != nullptr) row += n * rows.stride * (dtype == DType::float32 ? 4 : 2);
  }
  template <class Order, class... Lanes>
  Vec at(int64_t j, Order order, Lanes... lanes) const {
    if (row == nullptr) return zero();
    switch (dtype) {
      case DType::bfloat16:
        return load(reinterpret_cast<const bf16*>(row) + j, order, lanes...);
      case DType::float16:
        return load(reinterpret_cast<const f16*>(row) + j, order, lanes...);
      default:
        return load(reinterpret_cast<const float*>(row) + j, order, lanes...);
    }
  }
};

// Calls step(j) for whole vectors and step(j, n) for the last n elements.
template <class Step>
inline void each_vector(int64_t hidden, const Step& step) {
  int64_t j = 0;
  for (; j + Vec::width <= hidden; j += Vec::width) step(j);
  if (j < hidden) step(j, hidden - j);
}

// An operand of store_row that is the value itself.
struct Computed {
  Vec vec;
  Vec value() const { return vec; }
};

// h = round(operands.value()) in every column, where load(j, order, lanes...) gives the operands of
// a vector of columns; returns the sum of h squared. All operands of two vectors are loaded before
// either is computed, and both are computed before one is stored: the compiler moves no load across
// a store to the same row.
template <class R, class Load>
inline double store_row(R* h, int64_t hidden, const Load& load_operands) {
  const typename OrderFor<R>::type order;
  const auto store = [&](Vec& squares, int64_t j, Vec value, auto... lanes) {
    const Vec rounded = store_rounded(h + j, value, order, lanes...);
    squares = multiply_add(rounded, rounded, squares);
  };
  // Sums of 1,024 elements meet in double: longer ones in float alone cost the output its last ulp.
  double total = 0.0;
  int64_t j = 0;
  while (j < hidden) {
    const int64_t end = hidden - j < 1024 ? hidden : j + 1024;
    Vec sums[2] = {zero(), zero()};  // two chains hide the latency of the fused multiply-add
    for (; j + 2 * Vec::width <= end; j += 2 * Vec::width) {
      const auto first = load_operands(j, order);
      const auto second = load_operands(j + Vec::width, order);
      const Vec values[2] = {first.value(), second.value()};
      store(sums[0], j, values[0]);
      store(sums[1], j + Vec::width, values[1]);
    }
    if (j + Vec::width <= end) {
      store(sums[0], j, load_operands(j, order).value());
      j += Vec::width;
    }
    if (j < end) {
      store(sums[1], j, load_operands(j, order, end - j).value(), end - j);
      j = end;
    }
    total += sum(add(sums[0], sums[1]));
  }
  return total;
}

}  // namespace FASTSTEER_ISA_NAMESPACE
}  // namespace faststeer
