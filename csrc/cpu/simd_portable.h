// The floor: plain C++ that a compiler may vectorise, and the meaning of the SIMD layer's names.
//
//   load(p, order[, n])            a vector of float32 from storage, or its first n lanes, rest 0
//   store_rounded(p, v, order[, n])  rounds to nearest even, stores, returns what was stored
//   OrderFor<T>::type              how lanes lie in a row of T; all of a row's operands share it
//   multiply_add(a, b, c)          a * b + c, fused where the ISA fuses it
//   minimum(a, b), maximum(a, b)   lane by lane; b where either is NaN
//   sum(v)                         of all lanes
//   store_columns(p, v, order)     all lanes as float32, in the order of the row's columns
#pragma once

#include <stdint.h>
#include <string.h>

#include "cpu/storage.h"

namespace faststeer {
namespace FASTSTEER_ISA_NAMESPACE {

struct Vec {
  static constexpr int64_t width = 8;
  float lanes[8];
};

struct InOrder {};

template <class T>
struct OrderFor {
  using type = InOrder;
};

inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline float to_float(float value) { return value; }
inline float to_float(bf16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

inline float to_float(f16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0x1fu) return float_of(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0) return float_of(sign | ((exponent + 112u) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero or subnormal: exact
  return float_of(sign | bits_of(magnitude));
}

inline void round_to(float* p, float value) { *p = value; }

inline void round_to(bf16* p, float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t up = bits + 0x7fffu + ((bits >> 16) & 1u);
  p->bits = static_cast<uint16_t>((value != value ? bits | 0x400000u : up) >> 16);
}

inline void round_to(f16* p, float value) {
  const uint32_t sign = (bits_of(value) >> 16) & 0x8000u;
  uint32_t magnitude = bits_of(value) & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520: from here on the nearest is infinity
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // under 2^-14: the addition rounds at the last half bit
    half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  } else {
    magnitude += 0xfffu + ((magnitude >> 13) & 1u);
    half = (magnitude - 0x38000000u) >> 13;
  }
  p->bits = static_cast<uint16_t>(sign | half);
}

inline Vec broadcast(float value) {
  Vec result;
  for (float& lane : result.lanes) lane = value;
  return result;
}
inline Vec zero() { return broadcast(0.0f); }

inline Vec add(Vec a, Vec b) {
  for (int i = 0; i < 8; ++i) a.lanes[i] += b.lanes[i];
  return a;
}
inline Vec subtract(Vec a, Vec b) {
  for (int i = 0; i < 8; ++i) a.lanes[i] -= b.lanes[i];
  return a;
}
inline Vec multiply(Vec a, Vec b) {
  for (int i = 0; i < 8; ++i) a.lanes[i] *= b.lanes[i];
  return a;
}
inline Vec minimum(Vec a, Vec b) {
  for (int i = 0; i < 8; ++i) a.lanes[i] = a.lanes[i] < b.lanes[i] ? a.lanes[i] : b.lanes[i];
  return a;
}
inline Vec maximum(Vec a, Vec b) {
  for (int i = 0; i < 8; ++i) a.lanes[i] = a.lanes[i] > b.lanes[i] ? a.lanes[i] : b.lanes[i];
  return a;
}
inline Vec multiply_add(Vec a, Vec b, Vec c) { return add(multiply(a, b), c); }

inline float sum(Vec a) {
  for (int step = 4; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) a.lanes[i] += a.lanes[i + step];
  }
  return a.lanes[0];
}

template <class T>
inline Vec load(const T* p, InOrder, int64_t n) {
  Vec result = zero();
  for (int64_t i = 0; i < n; ++i) result.lanes[i] = to_float(p[i]);
  return result;
}
template <class T>
inline Vec load(const T* p, InOrder) {
  Vec result;
  for (int i = 0; i < 8; ++i) result.lanes[i] = to_float(p[i]);
  return result;
}

template <class T>
inline Vec store_rounded(T* p, Vec a, InOrder, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    round_to(p + i, a.lanes[i]);
    a.lanes[i] = to_float(p[i]);
  }
  return a;
}
template <class T>
inline Vec store_rounded(T* p, Vec a, InOrder) {
  return store_rounded(p, a, InOrder{}, Vec::width);
}

inline void store_columns(float* p, Vec a, InOrder) { store_rounded(p, a, InOrder{}); }

}  // namespace FASTSTEER_ISA_NAMESPACE
}  // namespace faststeer
