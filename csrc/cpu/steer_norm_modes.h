// The residual update where vectors have modes: projections, clamps, caps, a kept norm.
//
// A projection needs the whole row before it changes any of it, so the row is worked on in float32,
// in scratch that stays in L1, and rounded at the end.
#pragma once

#include "cpu/row_access.h"

namespace faststeer {
namespace FASTSTEER_ISA_NAMESPACE {

struct Mode {
  float push, pull, keep, floor, ceiling;
};

// An entry of a setting, for rows with modes and without: a vector without a mode is added.
struct Entry {
  int32_t id;  // -1 for none, and then of no mode
  float coefficient;
  Mode mode;
};

inline Entry read_entry(const SteerNormArgs& args, int64_t setting, int64_t k) {
  const int64_t at = setting * args.entries + k;
  const int32_t id = args.index[at];
  if (id < 0) return {-1, 0.0f, {}};
  if (args.modes == nullptr) return {id, args.coefficient[at], {1.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
  const float* line = args.modes + kModeNumbers * static_cast<int64_t>(id);
  return {id, args.coefficient[at], {line[0], line[1], line[2], line[3], line[4]}};
}

// The factor of an entry's vector v in a projection, clamp or cap, where `along` is the row times
// v: 0 within the bounds. NaN stays NaN.
inline float projection_factor(float coefficient, const Mode& mode, double along) {
  const double own = along - static_cast<double>(coefficient) * mode.push;
  double held = own > mode.ceiling ? mode.ceiling : own;
  held = held < mode.floor ? mode.floor : held;
  const float share = mode.push == 0.0f ? coefficient * mode.pull : mode.pull;
  return static_cast<float>(share * (held - own));
}

// The sum over a row of term(j, lanes...), one vector at a time.
template <class Term>
inline double sum_of_vectors(int64_t hidden, const Term& term) {
  double total = 0.0;
  for (int64_t begin = 0; begin < hidden; begin += 1024) {
    const int64_t end = hidden - begin < 1024 ? hidden : begin + 1024;
    Vec partial = zero();
    int64_t j = begin;
    for (; j + Vec::width <= end; j += Vec::width) partial = add(partial, term(j));
    if (j < end) partial = add(partial, term(j, end - j));
    total += sum(partial);
  }
  return total;
}

// A row in float32, in the order of lanes that suits R.
template <class R>
struct WideRow {
  Scratch row;
  int64_t hidden;
  typename OrderFor<R>::type order;

  template <class Value>
  void set(const Value& value) const {
    each_vector(hidden, [&](int64_t j, auto... lanes) {
      store_rounded(row.row + j, value(j, lanes...), InOrder{});
    });
  }
  template <class Operand>
  double dot(const Operand& other) const {
    return sum_of_vectors(hidden, [&](int64_t j, auto... lanes) {
      return multiply(row.at(j, order), other.at(j, order, lanes...));
    });
  }
  template <class Operand>
  void add_product(float factor, const Operand& other) const {
    const Vec factors = broadcast(factor);
    set([&](int64_t j, auto... lanes) {
      return add(row.at(j, order), multiply(factors, other.at(j, order, lanes...)));
    });
  }
  void scale(float factor) const {
    const Vec factors = broadcast(factor);
    set([&](int64_t j, auto...) { return multiply(row.at(j, order), factors); });
  }
};

// h = round(steered(residual + x)); returns the sum of h squared. `s` holds the sum of the entries
// of `setting` that are added; `row` is overwritten.
template <class R, class X, class V>
double update_row_by_modes(const SteerNormArgs& args, int64_t setting, const R* residual, X x,
                           Scratch s, float* row, R* h) {
  const typename OrderFor<R>::type order;
  const WideRow<R> wide{{row}, args.hidden, order};
  wide.set([&](int64_t j, auto... lanes) {
    return add(load(residual + j, order, lanes...), x.at(j, order, lanes...));
  });
  bool keep = false;
  for (int64_t k = 0; k < args.entries; ++k) {
    keep = keep || read_entry(args, setting, k).mode.keep != 0.0f;
  }
  const double before = keep ? wide.dot(wide.row) : 0.0;
  wide.add_product(1.0f, s);
  for (int64_t k = 0; k < args.entries; ++k) {
    const auto [id, coefficient, mode] = read_entry(args, setting, k);
    if (mode.pull == 0.0f) continue;
    const V vector(args.vectors, id);
    const float factor = projection_factor(coefficient, mode, wide.dot(vector));
    if (factor != 0.0f) wide.add_product(factor, vector);
  }
  if (keep) {
    const double after = wide.dot(wide.row);
    if (after > 0.0) wide.scale(static_cast<float>(__builtin_sqrt(before / after)));
  }
  return store_row(h, args.hidden,
                   [&](int64_t j, auto order, auto...) { return Computed{wide.row.at(j, order)}; });
}

}  // namespace FASTSTEER_ISA_NAMESPACE
}  // namespace faststeer
