// Checks of values in memory that is read once.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/multiversion.h"

namespace neurocuda::cpu {

constexpr std::uint32_t kNotFinite = 0x7f800000;  // the exponent of infinities and NaN, in place

NEUROCUDA_INLINE std::uint32_t exponent_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits & kNotFinite;
}

// Whether none of `count` numbers is infinite or NaN.
bool all_finite(const float* values, std::int64_t count);

// Whether all numbers are multiples of `step`, a power of two, from low to high.
bool on_grid(const float* values, std::int64_t count, float step, float low, float high);

// Whether both hold the same bytes.
bool same_bytes(const void* left, const void* right, std::int64_t bytes);

// Whether every weight is its integer times `step`.
bool same_integers(const float* values, const std::int8_t* numbers, std::int64_t count, float step);

}  // namespace neurocuda::cpu
