#include "cpu/finite.h"

#include <algorithm>
#include <cstring>

#include "cpu/multiversion.h"

namespace neurocuda::cpu {

NEUROCUDA_MULTIVERSION
bool all_finite(const float* values, std::int64_t count) {
  constexpr std::uint32_t kExponent = 0x7f800000;
  constexpr int kChains = 64;  // side by side, so that no value waits for the one before
  std::uint32_t largest[kChains] = {};
  std::int64_t at = 0;
  for (; at + kChains <= count; at += kChains) {
    std::uint32_t bits[kChains];
    std::memcpy(bits, values + at, sizeof bits);
    for (int chain = 0; chain < kChains; ++chain) {
      largest[chain] = std::max(largest[chain], bits[chain] & kExponent);
    }
  }
  for (; at < count; ++at) {
    std::uint32_t bits;
    std::memcpy(&bits, values + at, sizeof bits);
    largest[0] = std::max(largest[0], bits & kExponent);
  }
  return *std::max_element(largest, largest + kChains) < kExponent;
}

}  // namespace neurocuda::cpu
