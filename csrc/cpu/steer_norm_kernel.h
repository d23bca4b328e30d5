// Residual add, steering and RMSNorm of a row, in two passes over a row that stays in L1.
//
// The first pass writes the rounded residual and sums its squares; the second reads it back and
// writes the norm. Reading it back is how the norm sees the rounded value at no cost: a row of
// 4096 bfloat16 is 8 KiB. Rows that share their entries have them summed once, into `scratch`;
// the sum runs in entry order in float32 without fused multiply-add (this file is compiled with
// -ffp-contract=off), so that sum, a row summed by the caller and the sum made on the fly are the
// same bits. Included once per ISA, after that ISA's SIMD layer.
#pragma once

#include "cpu/row_access.h"
#include "cpu/steer_norm_modes.h"

namespace faststeer {
namespace FASTSTEER_ISA_NAMESPACE {

// More entries than this are summed into scratch first: a row's terms are kept on the stack.
constexpr int kMaxOnTheFly = 8;

// A vector that an entry adds to a row.
template <class V>
struct Term {
  V vector;
  float coefficient;
};

template <class V, class... Where>
inline Vec combine(const Term<V>* terms, int count, Where... where) {
  Vec s = multiply(broadcast(terms[0].coefficient), terms[0].vector.at(where...));
  for (int k = 1; k < count; ++k) {
    s = add(s, multiply(broadcast(terms[k].coefficient), terms[k].vector.at(where...)));
  }
  return s;
}

// What a vector of columns is computed from, for kCount terms. See store_row.
template <int kCount, class V>
struct Operands {
  Vec residual, x, vectors[kCount];
  const Term<V>* terms;

  Vec value() const {
    Vec s = multiply(broadcast(terms[0].coefficient), vectors[0]);
    for (int k = 1; k < kCount; ++k) {
      s = add(s, multiply(broadcast(terms[k].coefficient), vectors[k]));
    }
    return add(add(residual, x), s);
  }
};
template <class V>
struct Operands<0, V> {
  Vec residual, x;
  Vec value() const { return add(residual, x); }
};
// Any number of terms, more than there are registers for: summed as they are loaded.
template <class V>
struct Operands<-1, V> {
  Vec residual, x, sum;
  Vec value() const { return add(add(residual, x), sum); }
};

// h = round((residual + x) + sum of terms); returns the sum of h squared. kCount < 0: any count.
template <int kCount, class R, class X, class V>
inline double update_row(const R* residual, X x, const Term<V>* terms, int count, R* h,
                         int64_t hidden) {
  return store_row(h, hidden, [=](int64_t j, auto order, auto... lanes) {
    Operands<kCount, V> operands;
    operands.residual = load(residual + j, order, lanes...);
    operands.x = x.at(j, order, lanes...);
    if constexpr (kCount > 0) {
      operands.terms = terms;
      for (int k = 0; k < kCount; ++k) {
        operands.vectors[k] = terms[k].vector.at(j, order, lanes...);
      }
    } else if constexpr (kCount < 0) {
      operands.sum = combine(terms, count, j, order, lanes...);
    }
    return operands;
  });
}

template <class R, class X, class V>
inline double update_row(const R* residual, X x, const Term<V>* terms, int count, R* h,
                         int64_t hidden) {
  switch (count) {
    case 0:
      return update_row<0>(residual, x, terms, count, h, hidden);
    case 1:
      return update_row<1>(residual, x, terms, count, h, hidden);
    case 4:
      return update_row<4>(residual, x, terms, count, h, hidden);
    default:
      return update_row<-1>(residual, x, terms, count, h, hidden);
  }
}

// A norm's weight where there is an offset to it.
template <class W>
struct Offset {
  W weight;
  Vec offset;
  template <class Order, class... Lanes>
  Vec at(int64_t j, Order order, Lanes... lanes) const {
    return add(offset, weight.at(j, order, lanes...));
  }
};

template <class R, class W>
inline void norm_row(const R* h, W weight, float scale, R* out, int64_t hidden) {
  const typename OrderFor<R>::type order;
  const Vec scales = broadcast(scale);
  each_vector(hidden, [=](int64_t j, auto... lanes) {
    const Vec normed = multiply(load(h + j, order, lanes...), scales);
    store_rounded(out + j, multiply(normed, weight.at(j, order, lanes...)), order, lanes...);
  });
}

inline bool same_setting(const SteerNormArgs& args, int64_t a, int64_t b) {
  for (int64_t k = 0; k < args.entries; ++k) {
    if (args.index[a * args.entries + k] != args.index[b * args.entries + k]) return false;
    if (args.coefficient[a * args.entries + k] != args.coefficient[b * args.entries + k]) {
      return false;
    }
  }
  return true;
}

template <class V, class Order>
inline void combine_into(Scratch scratch, const SteerNormArgs& args, int64_t setting, Order order) {
  each_vector(args.hidden,
              [=](int64_t j, auto...) { store_rounded(scratch.row + j, zero(), InOrder{}); });
  for (int64_t k = 0; k < args.entries; ++k) {
    const Entry entry = read_entry(args, setting, k);
    if (entry.id < 0 || entry.mode.pull != 0.0f) continue;  // with a pull it comes after the sum
    const V vector(args.vectors, entry.id);
    const Vec c = broadcast(entry.coefficient * entry.mode.push);
    each_vector(args.hidden, [=](int64_t j, auto... lanes) {
      const Vec product = multiply(c, vector.at(j, order, lanes...));
      store_rounded(scratch.row + j, add(scratch.at(j, order), product), InOrder{});
    });
  }
}

// R: the residual's and outputs' dtype. X, W, V: how x, weight and vectors are read. `memory` is
// for two rows of scratch where there are modes.
template <class R, class X, class W, class V>
void steer_norm_rows(const SteerNormArgs& args, int64_t begin, int64_t end, float* memory) {
  const Scratch scratch{memory};
  const Term<Scratch> combined{scratch, 1.0f};
  int64_t in_scratch = -1;
  for (int64_t n = begin; n < end; ++n) {
    const R* residual = static_cast<const R*>(args.residual.data) + n * args.residual.stride;
    R* h = static_cast<R*>(args.residual_out.data) + n * args.residual_out.stride;
    const X x(args.x, n);
    double squares;

    bool summed = false;
    int64_t setting = 0;
    if (args.modes != nullptr) {
      setting = n / args.tokens_per_setting;
      if (in_scratch < 0 || !same_setting(args, in_scratch, setting)) {
        combine_into<V>(scratch, args, setting, typename OrderFor<R>::type{});
        in_scratch = setting;
      }
    } else if (args.entries > 1) {
      setting = n / args.tokens_per_setting;
      const int64_t next = (n + 1) / args.tokens_per_setting;
      const bool before = in_scratch >= 0 && same_setting(args, in_scratch, setting);
      const bool after = n + 1 < end && same_setting(args, setting, next);
      summed = before || after || args.entries > kMaxOnTheFly;
      if (summed && !before) {
        combine_into<V>(scratch, args, setting, typename OrderFor<R>::type{});
        in_scratch = setting;
      }
    } else if (args.entries == 1) {
      setting = n / args.tokens_per_setting;
    }
    if (args.modes != nullptr) {
      float* wide = memory + args.hidden + kMaxVectorWidth;
      squares = update_row_by_modes<R, X, V>(args, setting, residual, x, scratch, wide, h);
    } else if (summed) {
      squares = update_row<1>(residual, x, &combined, 1, h, args.hidden);
    } else {
      alignas(Term<V>) char storage[kMaxOnTheFly * sizeof(Term<V>)];
      Term<V>* terms = reinterpret_cast<Term<V>*>(storage);
      int count = 0;
      for (int64_t k = 0; k < args.entries; ++k) {
        const Entry entry = read_entry(args, setting, k);
        if (entry.id < 0) continue;
        terms[count++] = {V(args.vectors, entry.id), entry.coefficient};
      }
      squares = update_row(residual, x, terms, count, h, args.hidden);
    }

    if (args.weight.data == nullptr) continue;
    // In double, once a row: four roundings in float took the output to 5 ulp at 11008 elements.
    const double mean = squares / static_cast<double>(args.hidden);
    const float scale = static_cast<float>(1.0 / __builtin_sqrt(mean + args.eps));
    if (args.inverse_rms != nullptr) args.inverse_rms[n] = scale;
    R* out = static_cast<R*>(args.out.data) + n * args.out.stride;
    const W weight(args.weight, 0);
    if (args.weight_offset == 0.0f) {
      norm_row(h, weight, scale, out, args.hidden);
    } else {
      norm_row(h, Offset<W>{weight, broadcast(args.weight_offset)}, scale, out, args.hidden);
    }
  }
}

// The combinations that models meet get code of their own; the others share one that asks.
template <class R>
void steer_norm_typed(const SteerNormArgs& args, int64_t begin, int64_t end, float* scratch) {
  const DType own = args.residual.dtype;
  const bool alike = args.x.data != nullptr && args.x.dtype == own &&
                     (args.weight.data == nullptr || args.weight.dtype == own);
  if (alike && (args.entries == 0 || args.vectors.dtype == DType::float32)) {
    steer_norm_rows<R, Typed<R>, Typed<R>, Typed<float>>(args, begin, end, scratch);
  } else if (alike && args.vectors.dtype == own) {
    steer_norm_rows<R, Typed<R>, Typed<R>, Typed<R>>(args, begin, end, scratch);
  } else {
    steer_norm_rows<R, Mixed, Mixed, Mixed>(args, begin, end, scratch);
  }
}

inline void steer_norm(const SteerNormArgs& args, int64_t begin, int64_t end, float* scratch) {
  switch (args.residual.dtype) {
    case DType::bfloat16:
      return steer_norm_typed<bf16>(args, begin, end, scratch);
    case DType::float16:
      return steer_norm_typed<f16>(args, begin, end, scratch);
    default:
      return steer_norm_typed<float>(args, begin, end, scratch);
  }
}

}  // namespace FASTSTEER_ISA_NAMESPACE
}  // namespace faststeer
