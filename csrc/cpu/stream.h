// Stores that go past the caches, for results too large to be read from them again.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "cpu/multiversion.h"

namespace neurocuda::cpu {

#if defined(__SSE2__)
// Whole lines of the cache, from an aligned place on; returns how many values.
__attribute__((target("avx512f"))) inline std::int64_t stream_lines(const float* from, std::int64_t count,
                                                                    float* to) {
  std::int64_t at = 0;
  for (; at + 16 <= count; at += 16) _mm512_stream_ps(to + at, _mm512_loadu_ps(from + at));
  return at;
}
#endif

// To memory that is not read before `end_stream`.
inline void stream_floats(const float* from, std::int64_t count, float* to) {
#if defined(__SSE2__)
  const bool lines = kInstructions == Instructions::kAvx512;
  const std::uintptr_t beyond = lines ? 63 : 15;
  while (count > 0 && (reinterpret_cast<std::uintptr_t>(to) & beyond) != 0) {
    *to++ = *from++;
    --count;
  }
  std::int64_t at = lines ? stream_lines(from, count, to) : 0;
  for (; at + 4 <= count; at += 4) _mm_stream_ps(to + at, _mm_loadu_ps(from + at));
  from += at;
  to += at;
  count -= at;
#endif
  std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
}

// Orders streamed stores before those that follow, as other threads see them.
inline void end_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace neurocuda::cpu
