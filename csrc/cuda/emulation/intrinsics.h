// The CUDA intrinsics that the kernels use, in C++. Arithmetic is the host's, compiled with
// -ffp-contract=off.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "cuda/emulation/block.h"
#include "cuda/emulation/halves.h"

// ---- Synchronization. File and line identify a barrier.

#define NEUROCUDA_LOCATION const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace neurocuda::emulation {

inline int own_lane() {
  return static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % warpSize);
}

template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, const char* file, int line) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "fits in two registers");
  SyncPoint point{SyncPoint::Type::kShuffle, name, file, line, mask, 0, source};
  std::memcpy(&point.value, &value, sizeof value);
  const std::uint64_t taken = Device::instance().wait(point);
  std::memcpy(&value, &taken, sizeof value);
  return value;
}

}  // namespace neurocuda::emulation

inline void __syncthreads(NEUROCUDA_LOCATION) {
  using namespace neurocuda::emulation;
  Device::instance().wait({SyncPoint::Type::kBlock, "__syncthreads", file, line, 0, 0, 0});
}

inline unsigned __ballot_sync(unsigned mask, int value, NEUROCUDA_LOCATION) {
  using namespace neurocuda::emulation;
  const std::uint64_t bit = value != 0;
  return static_cast<unsigned>(
      Device::instance().wait({SyncPoint::Type::kBallot, "__ballot_sync", file, line, mask, bit, 0}));
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, NEUROCUDA_LOCATION) {
  return neurocuda::emulation::shuffle("__shfl_sync", mask, value, lane % warpSize, file, line);
}

// A lane whose source is outside the warp gets its own value.
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, NEUROCUDA_LOCATION) {
  const int own = neurocuda::emulation::own_lane(), source = own + static_cast<int>(by);
  return neurocuda::emulation::shuffle("__shfl_down_sync", mask, value, source < warpSize ? source : own,
                                       file, line);
}
#undef NEUROCUDA_LOCATION

inline void __threadfence() {}

// ---- Memory. One thread runs at a time, so plain accesses are atomic.

template <class T>
T __ldcg(const T* from) {
  return *from;
}

template <class T>
T atomicAdd(T* at, T value) {
  return std::exchange(*at, *at + value);
}

// ---- Arithmetic and bits.

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }

inline float __uint_as_float(unsigned bits) { return neurocuda::emulation::as<float>(bits); }
// Rounds toward zero and saturates; NaN becomes 0.
inline unsigned __float2uint_rz(float value) {
  if (!(value > 0.0f)) return 0;
  return value < 4294967296.0f ? static_cast<unsigned>(value) : 0xffffffffu;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }

template <class A, class B>
std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <class A, class B>
std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}
