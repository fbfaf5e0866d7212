#include "cpu/checks.h"

#include <algorithm>
#include <cmath>

#include "cpu/multiversion.h"

namespace neurocuda::cpu {
namespace {

// Prefetch distance in bytes, for memory that is read once.
constexpr std::int64_t kAhead = 16384;

struct AllFinite {
  NEUROCUDA_INLINE static bool run(const float* values, std::int64_t count) {
    constexpr int kChains = 64;  // side by side, so that no value waits for the one before
    std::uint32_t largest[kChains] = {};
    std::int64_t at = 0;
    for (; at + kChains <= count; at += kChains) {
      for (int chain = 0; chain < kChains; ++chain) {
        largest[chain] = std::max(largest[chain], exponent_of(values[at + chain]));
      }
    }
    for (; at < count; ++at) largest[0] = std::max(largest[0], exponent_of(values[at]));
    return *std::max_element(largest, largest + kChains) < kNotFinite;
  }
};

}  // namespace

bool all_finite(const float* values, std::int64_t count) { return run_version<AllFinite>(values, count); }

namespace {

struct OnGrid {
  NEUROCUDA_INLINE static bool run(const float* values, std::int64_t count, float step, float low,
                                   float high) {
    const float steps = 1.0f / step;
    std::int64_t off = 0;
    for (std::int64_t at = 0; at < count; ++at) {
      const float x = values[at], multiple = std::nearbyint(x * steps) * step;  // a product may underflow
      off += !(multiple == x && x >= low && x <= high);
    }
    return off == 0;
  }
};

}  // namespace

bool on_grid(const float* values, std::int64_t count, float step, float low, float high) {
  return run_version<OnGrid>(values, count, step, low, high);
}

namespace {

struct SameBytes {
  NEUROCUDA_INLINE static bool run(const void* left, const void* right, std::int64_t bytes) {
    constexpr std::int64_t kPiece = 256;
    const char *a = static_cast<const char*>(left), *b = static_cast<const char*>(right);
    std::int64_t at = 0;
    for (; at + kPiece <= bytes; at += kPiece) {
      for (std::int64_t line = at; line < at + kPiece; line += 64) {
        __builtin_prefetch(a + line + kAhead, 0, 0);
        __builtin_prefetch(b + line + kAhead, 0, 0);
      }
      std::uint64_t words[2][kPiece / 8], different = 0;
      std::memcpy(words[0], a + at, kPiece);
      std::memcpy(words[1], b + at, kPiece);
      for (std::int64_t k = 0; k < kPiece / 8; ++k) different |= words[0][k] ^ words[1][k];
      if (different != 0) return false;
    }
    return std::memcmp(a + at, b + at, static_cast<std::size_t>(bytes - at)) == 0;
  }
};

}  // namespace

bool same_bytes(const void* left, const void* right, std::int64_t bytes) {
  return run_version<SameBytes>(left, right, bytes);
}

namespace {

struct SameIntegers {
  NEUROCUDA_INLINE static bool run(const float* values, const std::int8_t* numbers, std::int64_t count,
                                   float step) {
    constexpr std::int64_t kPiece = 64;
    std::uint32_t different = 0;
    std::int64_t at = 0;
    for (; at + kPiece <= count; at += kPiece) {
      for (std::int64_t k = 0; k < kPiece; k += 16) __builtin_prefetch(values + at + kAhead / 4 + k, 0, 0);
      __builtin_prefetch(numbers + at + kAhead / 4, 0, 0);
      for (std::int64_t k = at; k < at + kPiece; ++k) {
        different |= values[k] != static_cast<float>(numbers[k]) * step ? 1u : 0u;
      }
    }
    for (; at < count; ++at) different |= values[at] != static_cast<float>(numbers[at]) * step ? 1u : 0u;
    return different == 0;
  }
};

}  // namespace

bool same_integers(const float* values, const std::int8_t* numbers, std::int64_t count, float step) {
  return run_version<SameIntegers>(values, numbers, count, step);
}

}  // namespace neurocuda::cpu
