// The functions that CUDA gives to kernels, as plain C++. Arithmetic is that of the host: -ffp-contract=off.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cuda/emulation/block.h"
#include "cuda/emulation/halves.h"

// ---- Threads that wait for each other. The file and line tell one barrier from another.

#define NEUROCUDA_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace neurocuda::emulation {

inline std::uint64_t meet_block(const char* name, bool value, const char* file, int line) {
  return Device::instance().meet({Meets::kCount, name, file, line, 0, value, 0});
}

inline unsigned ballot(const char* name, unsigned mask, bool value, const char* file, int line) {
  return static_cast<unsigned>(Device::instance().meet({Meets::kBallot, name, file, line, mask, value, 0}));
}

inline int own_lane() {
  return static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % warpSize);
}

template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, const char* file, int line) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a value of a register or two");
  Meeting meeting{Meets::kShuffle, name, file, line, mask, 0, source};
  std::memcpy(&meeting.value, &value, sizeof value);
  const std::uint64_t taken = Device::instance().meet(meeting);
  std::memcpy(&value, &taken, sizeof value);
  return value;
}

}  // namespace neurocuda::emulation

inline void __syncthreads(NEUROCUDA_PLACE) {
  neurocuda::emulation::meet_block("__syncthreads", false, file, line);
}
inline int __syncthreads_count(int value, NEUROCUDA_PLACE) {
  return static_cast<int>(neurocuda::emulation::meet_block("__syncthreads_count", value != 0, file, line));
}
inline int __syncthreads_or(int value, NEUROCUDA_PLACE) {
  return neurocuda::emulation::meet_block("__syncthreads_or", value != 0, file, line) != 0;
}
inline int __syncthreads_and(int value, NEUROCUDA_PLACE) {
  return neurocuda::emulation::meet_block("__syncthreads_and", value == 0, file, line) == 0;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, NEUROCUDA_PLACE) {
  neurocuda::emulation::ballot("__syncwarp", mask, false, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int value, NEUROCUDA_PLACE) {
  return neurocuda::emulation::ballot("__ballot_sync", mask, value != 0, file, line);
}
inline int __any_sync(unsigned mask, int value, NEUROCUDA_PLACE) {
  return neurocuda::emulation::ballot("__any_sync", mask, value != 0, file, line) != 0;
}
inline int __all_sync(unsigned mask, int value, NEUROCUDA_PLACE) {
  return neurocuda::emulation::ballot("__all_sync", mask, value == 0, file, line) == 0;
}

// Lanes are counted in groups of `width`; out of its group a lane takes its own value.
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize, NEUROCUDA_PLACE) {
  const int own = neurocuda::emulation::own_lane();
  const int source = own / width * width + (lane & (width - 1));
  return neurocuda::emulation::shuffle("__shfl_sync", mask, value, source, file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = warpSize, NEUROCUDA_PLACE) {
  const int own = neurocuda::emulation::own_lane(), source = own - static_cast<int>(by);
  return neurocuda::emulation::shuffle("__shfl_up_sync", mask, value,
                                       source < own / width * width ? own : source, file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = warpSize, NEUROCUDA_PLACE) {
  const int own = neurocuda::emulation::own_lane(), source = own + static_cast<int>(by);
  return neurocuda::emulation::shuffle("__shfl_down_sync", mask, value,
                                       source / width != own / width ? own : source, file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = warpSize, NEUROCUDA_PLACE) {
  const int own = neurocuda::emulation::own_lane(), source = own ^ with;
  return neurocuda::emulation::shuffle("__shfl_xor_sync", mask, value,
                                       source / width > own / width ? own : source, file, line);
}
#undef NEUROCUDA_PLACE

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// ---- Memory. One thread runs at a time, so plain accesses are atomic.

template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcs(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}
template <class T>
T __ldca(const T* from) {
  return *from;
}
template <class T>
void __stcs(T* to, T value) {
  *to = value;
}
template <class T>
void __stcg(T* to, T value) {
  *to = value;
}
template <class T>
void __stwt(T* to, T value) {
  *to = value;
}

namespace neurocuda::emulation {

template <class T>
struct Same {
  using type = T;
};
template <class T>
using Value = typename Same<T>::type;  // takes no part in deduction, so that literals convert

template <class T, class Change>
T exchange(T* at, Change change) {
  const T before = *at;
  *at = change(before);
  return before;
}

}  // namespace neurocuda::emulation

template <class T>
T atomicAdd(T* at, neurocuda::emulation::Value<T> value) {
  return neurocuda::emulation::exchange(at, [&](T before) { return static_cast<T>(before + value); });
}
template <class T>
T atomicSub(T* at, neurocuda::emulation::Value<T> value) {
  return neurocuda::emulation::exchange(at, [&](T before) { return static_cast<T>(before - value); });
}
template <class T>
T atomicMax(T* at, neurocuda::emulation::Value<T> value) {
  return neurocuda::emulation::exchange(at, [&](T before) { return std::max(before, value); });
}
template <class T>
T atomicMin(T* at, neurocuda::emulation::Value<T> value) {
  return neurocuda::emulation::exchange(at, [&](T before) { return std::min(before, value); });
}
template <class T>
T atomicOr(T* at, neurocuda::emulation::Value<T> value) {
  return neurocuda::emulation::exchange(at, [&](T before) { return before | value; });
}
template <class T>
T atomicAnd(T* at, neurocuda::emulation::Value<T> value) {
  return neurocuda::emulation::exchange(at, [&](T before) { return before & value; });
}
template <class T>
T atomicXor(T* at, neurocuda::emulation::Value<T> value) {
  return neurocuda::emulation::exchange(at, [&](T before) { return before ^ value; });
}
template <class T>
T atomicExch(T* at, neurocuda::emulation::Value<T> value) {
  return neurocuda::emulation::exchange(at, [&](T) { return value; });
}
template <class T>
T atomicCAS(T* at, neurocuda::emulation::Value<T> compare, neurocuda::emulation::Value<T> value) {
  return neurocuda::emulation::exchange(at, [&](T before) { return before == compare ? value : before; });
}

// ---- Numbers and bits.

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

inline unsigned __float_as_uint(float value) { return neurocuda::emulation::as<unsigned>(value); }
inline int __float_as_int(float value) { return neurocuda::emulation::as<int>(value); }
inline float __uint_as_float(unsigned bits) { return neurocuda::emulation::as<float>(bits); }
inline float __int_as_float(int bits) { return neurocuda::emulation::as<float>(bits); }
inline float __uint2float_rn(unsigned value) { return static_cast<float>(value); }
inline float __int2float_rn(int value) { return static_cast<float>(value); }
// To zero, at most the ends of the range; NaN is zero.
inline int __float2int_rz(float value) {
  if (!(value > -2147483648.0f)) return value <= -2147483648.0f ? -2147483647 - 1 : 0;
  return value < 2147483648.0f ? static_cast<int>(value) : 2147483647;
}
inline unsigned __float2uint_rz(float value) {
  if (!(value > 0.0f)) return 0;
  return value < 4294967296.0f ? static_cast<unsigned>(value) : 0xffffffffu;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __clzll(long long bits) {
  return bits == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(bits));
}
inline unsigned __brev(unsigned bits) {
  unsigned reversed = 0;
  for (int k = 0; k < 32; ++k) reversed |= (bits >> k & 1u) << (31 - k);
  return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(std::uint64_t{a} * b >> 32); }
// Byte k of the result is that of the eight of (b, a) which the k-th digit of the selector names.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (int k = 0; k < 4; ++k) {
    const unsigned digit = selector >> (4 * k) & 0xfu;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (digit & 7u))) & 0xffu;
    if (digit & 8u) byte = byte & 0x80u ? 0xffu : 0u;
    result |= byte << (8 * k);
  }
  return result;
}

template <class A, class B>
std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <class A, class B>
std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}
