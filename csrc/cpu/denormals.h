// Subnormal numbers are part of the arithmetic, whatever the calling thread has set.
#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace neurocuda::cpu {

// While it lives, this thread neither flushes subnormal results to zero nor reads them as zero.
class KeepSubnormals {
 public:
#if defined(__SSE__)
  KeepSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ & ~kFlush); }
  ~KeepSubnormals() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  KeepSubnormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ & ~kFlush));
  }
  ~KeepSubnormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
  KeepSubnormals() {}
#endif
  KeepSubnormals(const KeepSubnormals&) = delete;
  KeepSubnormals& operator=(const KeepSubnormals&) = delete;

 private:
#if defined(__SSE__)
  static constexpr unsigned kFlush = 0x8040;  // flush to zero, denormals are zero
  unsigned saved_;
#elif defined(__aarch64__)
  static constexpr std::uint64_t kFlush = 1u << 24;  // FZ
  std::uint64_t saved_;
#endif
};

}  // namespace neurocuda::cpu
