#include "cpu/spike_list.h"

#include <array>
#include <cstring>

#include "cpu/vector.h"

#if NEUROCUDA_VERSIONS
#include <immintrin.h>
#endif

namespace neurocuda::cpu {

namespace {

constexpr std::uint64_t kOnes = 0x0101010101010101;

struct Positions {
  std::uint8_t of[256][8] = {};
  std::uint8_t count[256] = {};
};

// For each set of 8 flags, the positions of those that are set.
constexpr Positions positions_table() {
  Positions table;
  for (int flags = 0; flags < 256; ++flags)
    for (int lane = 0; lane < 8; ++lane)
      if (flags >> lane & 1) table.of[flags][table.count[flags]++] = std::uint8_t(lane);
  return table;
}

constexpr Positions kPositions = positions_table();

// 1 in each byte of the result whose value is not zero.
NEUROCUDA_INLINE std::uint64_t nonzero_bytes(const float* from) {
  std::uint32_t bits[8];
  std::memcpy(bits, from, sizeof bits);
  std::uint8_t flags[8];
  for (int lane = 0; lane < 8; ++lane) flags[lane] = (bits[lane] << 1) != 0;
  std::uint64_t word;
  std::memcpy(&word, flags, sizeof word);
  return word;
}

NEUROCUDA_INLINE std::uint64_t nonzero_bytes(const std::uint8_t* from) {
  std::uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return (((word & (0x7f * kOnes)) + 0x7f * kOnes) | word) >> 7 & kOnes;
}

NEUROCUDA_INLINE bool is_nonzero(const float* from) {
  std::uint32_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return (bits << 1) != 0;
}

NEUROCUDA_INLINE bool is_nonzero(const std::uint8_t* from) { return *from != 0; }

template <typename Value>
std::int32_t* append(const Value* from, std::int64_t count, std::int32_t first, std::int32_t* to) {
  std::int64_t at = 0;
  for (; at + 8 <= count; at += 8) {
    const std::uint64_t word = nonzero_bytes(from + at);
    if (word == 0) continue;
    const std::uint8_t flags = std::uint8_t(word * 0x0102040810204080 >> 56);
    for (int lane = 0; lane < 8; ++lane) to[lane] = first + std::int32_t(at) + kPositions.of[flags][lane];
    to += kPositions.count[flags];
  }
  for (; at < count; ++at) {
    *to = first + std::int32_t(at);
    to += is_nonzero(from + at);
  }
  return to;
}

#if NEUROCUDA_VERSIONS

#define NEUROCUDA_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,popcnt")))

NEUROCUDA_AVX512 inline __m512i ascending_from(std::int64_t first) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_add_epi32(lanes, _mm512_set1_epi32(std::int32_t(first)));
}

NEUROCUDA_AVX512 inline std::int32_t* append_mask(__mmask16 mask, std::int64_t first, std::int32_t* to) {
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(mask, ascending_from(first)));
  return to + __builtin_popcount(mask);
}

NEUROCUDA_AVX512 std::int32_t* append_avx512(const float* from, std::int64_t count, std::int32_t first,
                                             std::int32_t* to) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (std::int64_t at = 0; at < count; at += 16) {
    const __mmask16 there = count - at >= 16 ? 0xffff : __mmask16((1u << (count - at)) - 1);
    const __m512i bits = _mm512_maskz_loadu_epi32(there, from + at);
    const __mmask16 mask = _mm512_test_epi32_mask(bits, magnitude);
    if (mask) to = append_mask(mask, first + at, to);
  }
  return to;
}

NEUROCUDA_AVX512 std::int32_t* append_avx512(const std::uint8_t* from, std::int64_t count, std::int32_t first,
                                             std::int32_t* to) {
  for (std::int64_t at = 0; at < count; at += 64) {
    const __mmask64 there = count - at >= 64 ? ~__mmask64{0} : (__mmask64{1} << (count - at)) - 1;
    const __m512i bytes = _mm512_maskz_loadu_epi8(there, from + at);
    std::uint64_t mask = _mm512_test_epi8_mask(bytes, bytes);
    for (std::int64_t lane = 0; mask; lane += 16, mask >>= 16)
      if (mask & 0xffff) to = append_mask(__mmask16(mask), first + at + lane, to);
  }
  return to;
}

template <typename Value>
std::int32_t* append_best(const Value* from, std::int64_t count, std::int32_t first, std::int32_t* to) {
  if (kInstructions == Instructions::kAvx512) return append_avx512(from, count, first, to);
  return append(from, count, first, to);
}

#else

template <typename Value>
std::int32_t* append_best(const Value* from, std::int64_t count, std::int32_t first, std::int32_t* to) {
  return append(from, count, first, to);
}

#endif

}  // namespace

std::int32_t* append_nonzero(const float* from, std::int64_t count, std::int32_t first, std::int32_t* to) {
  return append_best(from, count, first, to);
}

std::int32_t* append_nonzero(const std::uint8_t* from, std::int64_t count, std::int32_t first,
                             std::int32_t* to) {
  return append_best(from, count, first, to);
}

}  // namespace neurocuda::cpu
