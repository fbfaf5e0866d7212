#pragma once

#include <cstdint>

namespace neurocuda::cpu {

// Whether none of `count` numbers is infinite or NaN.
bool all_finite(const float* values, std::int64_t count);

}  // namespace neurocuda::cpu
