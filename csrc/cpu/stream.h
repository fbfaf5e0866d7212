// Stores that go past the caches, for results too large to be read from them again.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace neurocuda::cpu {

// To memory that is not read before `end_stream`.
inline void stream_floats(const float* from, std::int64_t count, float* to) {
#if defined(__SSE2__)
  while (count > 0 && reinterpret_cast<std::uintptr_t>(to) % 16 != 0) {
    *to++ = *from++;
    --count;
  }
  for (; count >= 4; count -= 4, from += 4, to += 4) _mm_stream_ps(to, _mm_loadu_ps(from));
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
