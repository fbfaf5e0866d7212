// CUDA's keywords, vector types and built-in variables, in C++.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define __host__
#define __device__
#define __global__
#define __constant__ static
#define __shared__ static  // NEUROCUDA_SHARED poisons its memory at the start of each block
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

// The vector types that the kernels use, aligned as on the device.
#define NEUROCUDA_VECTOR(type, name)                               \
  struct alignas(8) name##2 { type x, y; };                        \
  struct name##3 { type x, y, z; };                                \
  struct alignas(16) name##4 { type x, y, z, w; };                 \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; } \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

NEUROCUDA_VECTOR(unsigned, uint)
NEUROCUDA_VECTOR(float, float)
#undef NEUROCUDA_VECTOR

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Those of the running thread, set by the emulation.
inline dim3 gridDim, blockDim;
inline uint3 blockIdx, threadIdx;
constexpr int warpSize = 32;

namespace neurocuda::emulation {

template <class To, class From>
To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace neurocuda::emulation
