// Conversions of float16 and bfloat16 as on the device: rounded to nearest even; every NaN becomes 0x7fff.
#pragma once

#include "cuda/emulation/types.h"

struct __half {
  std::uint16_t bits;
};

struct __nv_bfloat16 {
  std::uint16_t bits;
};

inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }

// A product with 2^112 changes the exponent's bias; it is exact, for subnormal numbers too.
inline float __half2float(__half half) {
  using neurocuda::emulation::as;
  const std::uint32_t sign = static_cast<std::uint32_t>(half.bits & 0x8000u) << 16;
  const std::uint32_t rest = half.bits & 0x7fffu;
  const std::uint32_t moved = as<std::uint32_t>(as<float>(rest << 13) * 0x1p112f);
  return as<float>(sign | (rest >= 0x7c00u ? (rest << 13) | 0x7f800000u : moved));
}

inline __half __float2half_rn(float value) {
  using neurocuda::emulation::as;
  const std::uint32_t all = as<std::uint32_t>(value);
  const std::uint32_t sign = (all >> 16) & 0x8000u, bits = all & 0x7fffffffu;
  if (bits > 0x7f800000u) return {0x7fff};
  std::uint32_t half;
  if (bits >= (143u << 23)) {
    half = 0x7c00u;  // too large: infinity
  } else if (bits < (113u << 23)) {
    half = as<std::uint32_t>(as<float>(bits) + 0.5f) - 0x3f000000u;  // subnormal: the sum rounds
  } else {
    half = (bits - (112u << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | half)};
}

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  const auto bits = neurocuda::emulation::as<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
