// Mean and centred second moment of some rows, column by column, in one pass over them.
//
// Rows are taken in runs of 32, and a run in pairs, pairs of pairs and so on: two halves of m rows
// with the sums S_a, S_b and the squared distances M_a, M_b make
//     S = S_a + S_b,   M = M_a + M_b + (S_a - S_b)^2 / 2m
// (Chan, Golub and LeVeque 1983, the pairwise algorithm). All terms are positive: nothing cancels.
// Sums are of distances from a base, the median of three of the rows: near the mean, and never the
// one outlier. Runs meet in double. Where chunks of 4 met in float32, on a base that was the first
// chunk's mean, a first row 1,000 times the rest left the mean of 1,024 rows wrong by 1e-4.
//
// Included once per ISA, after that ISA's SIMD layer.
#pragma once

#include "cpu/moments.h"

namespace faststeer {
namespace FASTSTEER_ISA_NAMESPACE {

constexpr int kRun = 32;
// Rows folded in registers. Rows a power of two apart share a set of L1, which holds 8 lines or
// more.
constexpr int kTree = 8;
// What is read of one tree before the next: a cache line of two-byte elements, so that no line is
// needed again after the next tree has evicted it.
constexpr int64_t kColumns = 32;

// What a run comes to in some columns. Its mean is base + sum / n.
struct Sums {
  alignas(64) float base[kColumns], sum[kColumns], twice_m2[kColumns];
};

inline Vec median(Vec a, Vec b, Vec c) { return maximum(minimum(a, b), minimum(maximum(a, b), c)); }

// Makes sum[0] the sum of n values, each of them the sum of `unit` rows, and adds what M gains.
// Left to itself, gcc 12 keeps the portable build's values in memory: half as fast.
template <int n, int unit, int half = 1>
__attribute__((always_inline)) inline void fold(Vec* sum, Vec& twice_m2) {
  if constexpr (half < n) {
    constexpr float share = 1.0f / (half * unit);
#pragma GCC unroll 8
    for (int i = 0; i < n; i += 2 * half) {
      const Vec distance = subtract(sum[i], sum[i + half]);
      const Vec scaled = share == 1.0f ? distance : multiply(distance, broadcast(share));
      twice_m2 = multiply_add(scaled, distance, twice_m2);
      sum[i] = add(sum[i], sum[i + half]);
    }
    fold<n, unit, 2 * half>(sum, twice_m2);
  }
}

// A run of n rows, in `vecs` vectors of columns from j on.
template <int n, int vecs, class T, class... Lanes>
inline void sum_run(const T* const* row, int64_t j, Sums& out, Lanes... lanes) {
  const typename OrderFor<T>::type order;
  constexpr int tree = n < kTree ? n : kTree;
  Vec base[vecs], twice_m2[vecs], sum[vecs][n / tree];
  const auto at = [&](int i, int v) { return load(row[i] + j + v * Vec::width, order, lanes...); };
  for (int v = 0; v < vecs; ++v) {
    base[v] = median(at(0, v), at(n / 2, v), at(n - 1, v));
    twice_m2[v] = zero();
  }
  for (int t = 0; t < n / tree; ++t) {
    for (int v = 0; v < vecs; ++v) {
      Vec value[tree];
      for (int i = 0; i < tree; ++i) value[i] = subtract(at(t * tree + i, v), base[v]);
      Vec of_tree = zero();  // apart, for fewer roundings of one total
      fold<tree, 1>(value, of_tree);
      sum[v][t] = value[0];
      twice_m2[v] = add(twice_m2[v], of_tree);
    }
  }
  for (int v = 0; v < vecs; ++v) {
    fold<n / tree, tree>(sum[v], twice_m2[v]);
    store_columns(out.base + v * Vec::width, base[v], order);
    store_columns(out.sum + v * Vec::width, sum[v][0], order);
    store_columns(out.twice_m2 + v * Vec::width, twice_m2[v], order);
  }
}

// Merges a run of n rows into the moments of the rows before it. `share` of all rows are the run's;
// `weight` is the rows before, times that.
template <int n>
inline void merge_run(const Sums& run, double share, double weight, int64_t columns, double* mean,
                      double* m2) {
  for (int64_t k = 0; k < columns; ++k) {
    const double run_mean = static_cast<double>(run.base[k]) + static_cast<double>(run.sum[k]) / n;
    const double delta = run_mean - mean[k];
    mean[k] += delta * share;
    m2[k] += 0.5 * static_cast<double>(run.twice_m2[k]) + delta * delta * weight;
  }
}

template <int n, class T>
inline void add_run(const T* const* row, int64_t before, int64_t begin, int64_t end, double* mean,
                    double* m2) {
  const double share = static_cast<double>(n) / static_cast<double>(before + n);
  const double weight = static_cast<double>(before) * share;
  Sums run;
  int64_t j = begin;
  for (; j + kColumns <= end; j += kColumns) {
    sum_run<n, kColumns / Vec::width>(row, j, run);
    merge_run<n>(run, share, weight, kColumns, mean + (j - begin), m2 + (j - begin));
  }
  for (; j < end; j += Vec::width) {
    const int64_t lanes = end - j < Vec::width ? end - j : Vec::width;
    sum_run<n, 1>(row, j, run, lanes);
    merge_run<n>(run, share, weight, lanes, mean + (j - begin), m2 + (j - begin));
  }
}

// Rows from `before` on, in runs of n while there are as many, then of half as many, and so on.
template <class T, int n = kRun>
inline void add_runs(const Rows& x, const int64_t* rows, int64_t before, int64_t count,
                     int64_t begin, int64_t end, double* mean, double* m2) {
  for (; before + n <= count; before += n) {
    const T* row[n];
    for (int i = 0; i < n; ++i) {
      row[i] = static_cast<const T*>(x.data) + rows[before + i] * x.stride;
    }
    add_run<n>(row, before, begin, end, mean, m2);
  }
  if constexpr (n > 1) add_runs<T, n / 2>(x, rows, before, count, begin, end, mean, m2);
}

inline void moments(const Rows& x, const int64_t* rows, int64_t count, int64_t begin, int64_t end,
                    double* mean, double* m2) {
  for (int64_t k = 0; k < end - begin; ++k) mean[k] = m2[k] = 0.0;
  switch (x.dtype) {
    case DType::bfloat16:
      return add_runs<bf16>(x, rows, 0, count, begin, end, mean, m2);
    case DType::float16:
      return add_runs<f16>(x, rows, 0, count, begin, end, mean, m2);
    default:
      return add_runs<float>(x, rows, 0, count, begin, end, mean, m2);
  }
}

}  // namespace FASTSTEER_ISA_NAMESPACE
}  // namespace faststeer
