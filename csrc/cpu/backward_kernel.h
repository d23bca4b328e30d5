// Gradients of a block of rows, in two passes over each row while it is in L1.
//
// With y = h * r, r = rsqrt(mean(h^2) + eps) and q = grad_out * weight the gradient of h is
//     grad_residual + r * (q - y * m),   m = mean(q * y).
// The first pass makes the mean, the second all that is written: grad_h once in each dtype, and
// what sums over rows need, which stays in scratch. A sum in float32 has as many terms as a block
// has rows; blocks meet in double, see backward.cpp. Included once per ISA, after that ISA's SIMD
// layer.
#pragma once

#include "cpu/backward.h"
#include "cpu/row_access.h"

namespace faststeer {
namespace FASTSTEER_ISA_NAMESPACE {

// The sum over a row of value(j, order, lanes...), of two chains that meet in double every 1,024
// elements, as in store_row.
template <class Order, class Value>
inline double sum_row(int64_t hidden, Order order, const Value& value) {
  double total = 0.0;
  for (int64_t j = 0; j < hidden;) {
    const int64_t end = hidden - j < 1024 ? hidden : j + 1024;
    Vec sums[2] = {zero(), zero()};
    for (; j + 2 * Vec::width <= end; j += 2 * Vec::width) {
      sums[0] = value(sums[0], j, order);
      sums[1] = value(sums[1], j + Vec::width, order);
    }
    if (j + Vec::width <= end) {
      sums[0] = value(sums[0], j, order);
      j += Vec::width;
    }
    if (j < end) {
      sums[1] = value(sums[1], j, order, end - j);
      j = end;
    }
    total += sum(add(sums[0], sums[1]));
  }
  return total;
}

// Stores lanes that lie as `order` says in a row of another dtype than they were read for.
template <class X, class Order, class... Lanes>
inline void store_as(X* p, Vec v, Order order, Lanes... lanes) {
  alignas(64) float columns[Vec::width];
  store_columns(columns, v, order);
  const typename OrderFor<X>::type own;
  store_rounded(p, load(columns, own), own, lanes...);
}

template <class Order, class... Lanes>
inline void store_as(const Rows& rows, int64_t n, int64_t j, Vec v, Order order, Lanes... lanes) {
  const int64_t at = n * rows.stride + j;
  switch (rows.dtype) {
    case DType::bfloat16:
      return store_as(static_cast<bf16*>(rows.data) + at, v, order, lanes...);
    case DType::float16:
      return store_as(static_cast<f16*>(rows.data) + at, v, order, lanes...);
    default:
      return store_as(static_cast<float*>(rows.data) + at, v, order, lanes...);
  }
}

// Sums over the rows of a block, in the order of lanes that suits R; none where not wanted.
struct BlockSums {
  float* weight;
  float* segment;
  bool first;  // row of its segment
};

// Row n. R: the dtype of the gradients and of h. W: how the weight is read.
template <class R, class W, bool kNormed>
inline void backward_row(const BackwardArgs& args, int64_t n, const BlockSums& sums) {
  const typename OrderFor<R>::type order;
  const int64_t hidden = args.hidden;
  const auto row = [n](const Rows& rows) {
    return static_cast<const R*>(rows.data) + n * rows.stride;
  };
  const R* grad_residual = args.grad_residual.data == nullptr ? nullptr : row(args.grad_residual);
  R* grad_h = args.grad_h.data == nullptr ? nullptr : const_cast<R*>(row(args.grad_h));
  const R *grad_out = nullptr, *h = nullptr;
  float inverse_rms = 0.0f, mean = 0.0f;
  const Vec offset = broadcast(args.weight_offset);
  const W weight(args.weight, 0);
  if constexpr (kNormed) {
    grad_out = row(args.grad_out);
    h = row(args.h);
    inverse_rms = args.inverse_rms[n];
    const double dot = sum_row(hidden, order, [&](Vec sum, int64_t j, auto own, auto... lanes) {
      const Vec q =
          multiply(load(grad_out + j, own, lanes...), add(offset, weight.at(j, own, lanes...)));
      return multiply_add(q, load(h + j, own, lanes...), sum);
    });
    mean = static_cast<float>(inverse_rms * (dot / static_cast<double>(hidden)));
  }
  const Vec scale = broadcast(inverse_rms), minus_mean = broadcast(-mean);
  each_vector(hidden, [&](int64_t j, auto... lanes) {
    Vec value = zero(), passed = zero();
    if (grad_residual != nullptr) passed = load(grad_residual + j, order, lanes...);
    if constexpr (kNormed) {
      const Vec g = load(grad_out + j, order, lanes...);
      const Vec y = multiply(load(h + j, order, lanes...), scale);
      const Vec q = multiply(g, add(offset, weight.at(j, order, lanes...)));
      value = multiply(multiply_add(y, minus_mean, q), scale);
      if (sums.weight != nullptr) {
        const Vec before = load(sums.weight + j, InOrder{});
        store_rounded(sums.weight + j, multiply_add(g, y, before), InOrder{});
      }
    }
    value = add(value, passed);
    if (grad_h != nullptr) store_rounded(grad_h + j, value, order, lanes...);
    if (args.grad_x.data != nullptr) store_as(args.grad_x, n, j, value, order, lanes...);
    if (sums.segment != nullptr) {
      const Vec before = sums.first ? zero() : load(sums.segment + j, InOrder{});
      store_rounded(sums.segment + j, add(before, value), InOrder{});
    }
  });
}

// What of the entries' gradients comes from one segment, whose sum is in scratch.
template <class Order>
inline void finish_segment(const BackwardArgs& args, int64_t setting, const float* segment,
                           float* columns, double* coefficients, Order order) {
  if (columns != nullptr) {
    each_vector(args.hidden, [&](int64_t j, auto...) {
      store_columns(columns + j, load(segment + j, InOrder{}), order);
    });
  }
  if (coefficients == nullptr) return;
  for (int64_t k = 0; k < args.entries; ++k) {
    const int32_t id = args.index[setting * args.entries + k];
    if (id < 0) continue;
    const Mixed vector(args.vectors, id);
    coefficients[k] = sum_row(args.hidden, order, [&](Vec sum, int64_t j, auto own, auto... lanes) {
      return multiply_add(vector.at(j, own, lanes...), load(segment + j, InOrder{}), sum);
    });
  }
}

template <class R, class W, bool kNormed>
void backward_typed(const BackwardArgs& args, int64_t begin, int64_t end,
                    const BackwardBlock& block) {
  const typename OrderFor<R>::type order;
  const int64_t padded = args.hidden + kMaxVectorWidth;
  const bool segments = block.segments != nullptr || block.coefficients != nullptr;
  BlockSums sums{block.weight == nullptr ? nullptr : block.scratch,
                 segments ? block.scratch + padded : nullptr, true};
  const auto each = [&](const auto& step) {
    each_vector(args.hidden, [&](int64_t j, auto...) { step(j); });
  };
  if (sums.weight != nullptr) {
    each([&](int64_t j) { store_rounded(sums.weight + j, zero(), InOrder{}); });
  }
  int64_t segment = 0;
  for (int64_t n = begin; n < end; ++n) {
    backward_row<R, W, kNormed>(args, n, sums);
    if (!segments) continue;
    const int64_t setting = n / args.tokens_per_setting;
    sums.first = n + 1 == end || (n + 1) / args.tokens_per_setting != setting;
    if (!sums.first) continue;
    finish_segment(
        args, setting, sums.segment,
        block.segments == nullptr ? nullptr : block.segments + segment * padded,
        block.coefficients == nullptr ? nullptr : block.coefficients + segment * args.entries,
        order);
    ++segment;
  }
  if (sums.weight == nullptr) return;
  each(
      [&](int64_t j) { store_columns(block.weight + j, load(sums.weight + j, InOrder{}), order); });
}

template <class R>
void backward_of(const BackwardArgs& args, int64_t begin, int64_t end, const BackwardBlock& block) {
  if (args.grad_out.data == nullptr) {
    backward_typed<R, Mixed, false>(args, begin, end, block);
  } else if (args.weight.dtype == args.h.dtype) {
    backward_typed<R, Typed<R>, true>(args, begin, end, block);
  } else {
    backward_typed<R, Mixed, true>(args, begin, end, block);
  }
}

inline void backward_rows(const BackwardArgs& args, int64_t begin, int64_t end,
                          const BackwardBlock& block) {
  const bool normed = args.grad_out.data != nullptr;
  switch (normed ? args.grad_out.dtype : args.grad_residual.dtype) {
    case DType::bfloat16:
      return backward_of<bf16>(args, begin, end, block);
    case DType::float16:
      return backward_of<f16>(args, begin, end, block);
    default:
      return backward_of<float>(args, begin, end, block);
  }
}

inline void add_scaled(double factor, const float* row, int64_t count, double* sums) {
  for (int64_t j = 0; j < count; ++j) sums[j] += factor * static_cast<double>(row[j]);
}

template <class T>
inline void round_sums(const double* sums, int64_t count, T* to) {
  const typename OrderFor<T>::type order;
  each_vector(count, [&](int64_t j, auto... lanes) {
    alignas(64) float columns[Vec::width] = {};
    for (int64_t i = 0; i < Vec::width && j + i < count; ++i) {
      columns[i] = static_cast<float>(sums[j + i]);
    }
    store_rounded(to + j, load(columns, order), order, lanes...);
  });
}

inline void round_sums(const double* sums, int64_t count, const Rows& to, int64_t n) {
  const int64_t at = n * to.stride;
  switch (to.dtype) {
    case DType::bfloat16:
      return round_sums(sums, count, static_cast<bf16*>(to.data) + at);
    case DType::float16:
      return round_sums(sums, count, static_cast<f16*>(to.data) + at);
    default:
      return round_sums(sums, count, static_cast<float*>(to.data) + at);
  }
}

}  // namespace FASTSTEER_ISA_NAMESPACE
}  // namespace faststeer
