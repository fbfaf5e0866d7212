#include "cpu/finite.h"

#include <algorithm>
#include <cstring>

#include "cpu/multiversion.h"

namespace neurocuda::cpu {

NEUROCUDA_MULTIVERSION
bool all_finite(const float* values, std::int64_t count) {
  constexpr std::uint32_t kExponent = 0x7f800000;
  std::uint32_t largest = 0;
  for (std::int64_t at = 0; at < count; ++at) {
    std::uint32_t bits;
    std::memcpy(&bits, values + at, sizeof bits);
    largest = std::max(largest, bits & kExponent);
  }
  return largest < kExponent;
}

}  // namespace neurocuda::cpu
