// Eight float32 lanes on AVX2 with FMA and F16C. See simd_portable.h for what each name means.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/storage.h"

namespace faststeer {
namespace FASTSTEER_ISA_NAMESPACE {

struct Vec {
  static constexpr int64_t width = 8;
  __m256 lanes;
};

struct InOrder {};

template <class T>
struct OrderFor {
  using type = InOrder;
};

inline Vec zero() { return {_mm256_setzero_ps()}; }
inline Vec broadcast(float value) { return {_mm256_set1_ps(value)}; }
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.lanes, b.lanes)}; }
inline Vec subtract(Vec a, Vec b) { return {_mm256_sub_ps(a.lanes, b.lanes)}; }
inline Vec multiply(Vec a, Vec b) { return {_mm256_mul_ps(a.lanes, b.lanes)}; }
inline Vec minimum(Vec a, Vec b) { return {_mm256_min_ps(a.lanes, b.lanes)}; }
inline Vec maximum(Vec a, Vec b) { return {_mm256_max_ps(a.lanes, b.lanes)}; }
inline Vec multiply_add(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.lanes, b.lanes, c.lanes)};
}

inline float sum(Vec a) {
  const __m128 four =
      _mm_add_ps(_mm256_castps256_ps128(a.lanes), _mm256_extractf128_ps(a.lanes, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline Vec widen(__m128i half, bf16) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
inline Vec widen(__m128i half, f16) { return {_mm256_cvtph_ps(half)}; }

inline __m128i narrow(Vec a, bf16) {
  const __m256i bits = _mm256_castps_si256(a.lanes);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.lanes, a.lanes, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i words = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
inline __m128i narrow(Vec a, f16) { return _mm256_cvtps_ph(a.lanes, _MM_FROUND_TO_NEAREST_INT); }

// AVX2 has no masked two-byte access: the last lanes of a row go through a buffer.
template <class T>
inline void copy(T* to, const T* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

inline Vec load(const float* p, InOrder) { return {_mm256_loadu_ps(p)}; }
template <class Half>
inline Vec load(const Half* p, InOrder) {
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), Half{});
}
template <class T>
inline Vec load(const T* p, InOrder, int64_t n) {
  T buffer[Vec::width] = {};
  copy(buffer, p, n);
  return load(buffer, InOrder{});
}

inline Vec store_rounded(float* p, Vec a, InOrder) {
  _mm256_storeu_ps(p, a.lanes);
  return a;
}
template <class Half>
inline Vec store_rounded(Half* p, Vec a, InOrder) {
  const __m128i half = narrow(a, Half{});
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
  return widen(half, Half{});
}
template <class T>
inline Vec store_rounded(T* p, Vec a, InOrder, int64_t n) {
  T buffer[Vec::width];
  const Vec rounded = store_rounded(buffer, a, InOrder{});
  copy(p, buffer, n);
  return rounded;
}

inline void store_columns(float* p, Vec a, InOrder) { _mm256_storeu_ps(p, a.lanes); }

}  // namespace FASTSTEER_ISA_NAMESPACE
}  // namespace faststeer
