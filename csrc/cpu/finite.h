#pragma once

#include <cstdint>

namespace neurocuda::cpu {

// Whether none of `count` numbers is infinite or NaN.
bool all_finite(const float* values, std::int64_t count);

// Whether all numbers are multiples of `step`, a power of two, from low to high.
bool on_grid(const float* values, std::int64_t count, float step, float low, float high);

// Whether every number is its whole number times `step`.
bool same_integers(const float* values, const std::int8_t* numbers, std::int64_t count, float step);

}  // namespace neurocuda::cpu
