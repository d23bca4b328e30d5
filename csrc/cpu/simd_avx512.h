// Thirty-two float32 lanes in two registers, on AVX-512 (F, BW, VL, DQ). simd_portable.h
// defines the names.
//
// The kernel is bound by the two vector ports, not by memory, at one row of 4096 bfloat16. Hence
// EvenOdd: a register of 32 bfloat16 splits into its even and its odd elements with one shift and
// one mask, half the work of widening it in order, and two such halves merge as cheaply. Sums do
// not care about the order; operands that are not bfloat16 are permuted to match.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/storage.h"

namespace faststeer {
namespace FASTSTEER_ISA_NAMESPACE {

struct Vec {
  static constexpr int64_t width = 32;
  __m512 a, b;
};

struct InOrder {};
struct EvenOdd {};

template <class T>
struct OrderFor {
  using type = InOrder;
};
template <>
struct OrderFor<bf16> {
  using type = EvenOdd;
};

inline Vec zero() { return {_mm512_setzero_ps(), _mm512_setzero_ps()}; }
inline Vec broadcast(float value) { return {_mm512_set1_ps(value), _mm512_set1_ps(value)}; }
inline Vec add(Vec u, Vec v) { return {_mm512_add_ps(u.a, v.a), _mm512_add_ps(u.b, v.b)}; }
inline Vec subtract(Vec u, Vec v) { return {_mm512_sub_ps(u.a, v.a), _mm512_sub_ps(u.b, v.b)}; }
inline Vec multiply(Vec u, Vec v) { return {_mm512_mul_ps(u.a, v.a), _mm512_mul_ps(u.b, v.b)}; }
inline Vec minimum(Vec u, Vec v) { return {_mm512_min_ps(u.a, v.a), _mm512_min_ps(u.b, v.b)}; }
inline Vec maximum(Vec u, Vec v) { return {_mm512_max_ps(u.a, v.a), _mm512_max_ps(u.b, v.b)}; }
inline Vec multiply_add(Vec u, Vec v, Vec w) {
  return {_mm512_fmadd_ps(u.a, v.a, w.a), _mm512_fmadd_ps(u.b, v.b, w.b)};
}
inline float sum(Vec v) { return _mm512_reduce_add_ps(_mm512_add_ps(v.a, v.b)); }

inline __m512i high_half() { return _mm512_set1_epi32(static_cast<int>(0xffff0000u)); }
inline __mmask32 first(int64_t n) { return static_cast<__mmask32>((uint64_t{1} << n) - 1); }
inline __mmask16 low(int64_t n) { return static_cast<__mmask16>(first(n)); }
inline __mmask16 high(int64_t n) { return static_cast<__mmask16>(first(n) >> 16); }

inline Vec split(Vec v) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  return {_mm512_permutex2var_ps(v.a, even, v.b), _mm512_permutex2var_ps(v.a, odd, v.b)};
}
inline Vec as(Vec in_order, InOrder) { return in_order; }
inline Vec as(Vec in_order, EvenOdd) { return split(in_order); }

inline Vec widen(__m512i halves, bf16, EvenOdd) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(halves, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(halves, high_half()))};
}
inline __m512 widen(__m256i halves, bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline __m512 widen(__m256i halves, f16) { return _mm512_cvtph_ps(halves); }
template <class Half>
inline Vec widen(__m512i halves, Half, InOrder) {
  return {widen(_mm512_castsi512_si256(halves), Half{}),
          widen(_mm512_extracti64x4_epi64(halves, 1), Half{})};
}
inline Vec widen(__m512i halves, f16, EvenOdd) { return split(widen(halves, f16{}, InOrder{})); }

template <class Order>
inline Vec load(const float* p, Order order) {
  return as({_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16)}, order);
}
template <class Order>
inline Vec load(const float* p, Order order, int64_t n) {
  return as({_mm512_maskz_loadu_ps(low(n), p), _mm512_maskz_loadu_ps(high(n), p + 16)}, order);
}
template <class Half, class Order>
inline Vec load(const Half* p, Order order) {
  return widen(_mm512_loadu_si512(p), Half{}, order);
}
template <class Half, class Order>
inline Vec load(const Half* p, Order order, int64_t n) {
  return widen(_mm512_maskz_loadu_epi16(first(n), p), Half{}, order);
}

// Round to nearest even in the upper half of each lane. vcvtneps2bf16 would be one instruction, but
// it flushes subnormals to zero. A NaN is truncated: arithmetic made it, so its quiet bit is set.
inline __m512i round_bf16(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __mmask16 number = _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q);
  const __m512i bias =
      _mm512_mask_mov_epi32(_mm512_set1_epi32(0x7fff), odd, _mm512_set1_epi32(0x8000));
  return _mm512_mask_add_epi32(bits, number, bits, bias);
}

inline __m512i narrow(Vec v, bf16, EvenOdd) {
  constexpr int kMaskedOdd_or_even = 0xf8;  // ternary truth table of (odd & mask) | even
  return _mm512_ternarylogic_epi32(_mm512_srli_epi32(round_bf16(v.a), 16), round_bf16(v.b),
                                   high_half(), kMaskedOdd_or_even);
}
inline __m512i narrow(Vec v, f16, InOrder) {
  const __m256i a = _mm512_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT);
  const __m256i b = _mm512_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT);
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}

inline Vec store_rounded(float* p, Vec v, InOrder) {
  _mm512_storeu_ps(p, v.a);
  _mm512_storeu_ps(p + 16, v.b);
  return v;
}
inline Vec store_rounded(float* p, Vec v, InOrder, int64_t n) {
  _mm512_mask_storeu_ps(p, low(n), v.a);
  _mm512_mask_storeu_ps(p + 16, high(n), v.b);
  return v;
}
template <class Half, class Order>
inline Vec store_rounded(Half* p, Vec v, Order order) {
  const __m512i halves = narrow(v, Half{}, order);
  _mm512_storeu_si512(p, halves);
  return widen(halves, Half{}, order);
}
template <class Half, class Order>
inline Vec store_rounded(Half* p, Vec v, Order order, int64_t n) {
  const __m512i halves = narrow(v, Half{}, order);
  _mm512_mask_storeu_epi16(p, first(n), halves);
  return widen(halves, Half{}, order);
}

inline void store_columns(float* p, Vec v, InOrder) { store_rounded(p, v, InOrder{}); }
inline void store_columns(float* p, Vec v, EvenOdd) {
  const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  _mm512_storeu_ps(p, _mm512_permutex2var_ps(v.a, low, v.b));
  _mm512_storeu_ps(p + 16, _mm512_permutex2var_ps(v.a, high, v.b));
}

}  // namespace FASTSTEER_ISA_NAMESPACE
}  // namespace faststeer
