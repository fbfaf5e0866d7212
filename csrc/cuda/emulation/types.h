// The names of CUDA's language and its vector types, as plain C++.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define __host__
#define __device__
#define __global__
#define __constant__ static
#define __shared__ static  // prefer NEUROCUDA_SHARED: its memory is poisoned at the start of each block
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using longlong = long long;
using ulonglong = unsigned long long;

// As on the device, four lie at a multiple of their size, at most 16 bytes; three at one of an element.
#define NEUROCUDA_VECTOR(type, name)                                                     \
  struct alignas(sizeof(type)) name##1 { type x; };                                      \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };                               \
  struct name##3 { type x, y, z; };                                                      \
  struct alignas(sizeof(type) < 4 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; }; \
  inline name##1 make_##name##1(type x) { return {x}; }                                  \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                       \
  inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }            \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

NEUROCUDA_VECTOR(signed char, char)
NEUROCUDA_VECTOR(uchar, uchar)
NEUROCUDA_VECTOR(short, short)
NEUROCUDA_VECTOR(ushort, ushort)
NEUROCUDA_VECTOR(int, int)
NEUROCUDA_VECTOR(uint, uint)
NEUROCUDA_VECTOR(float, float)
NEUROCUDA_VECTOR(longlong, longlong)
NEUROCUDA_VECTOR(ulonglong, ulonglong)
NEUROCUDA_VECTOR(double, double)
#undef NEUROCUDA_VECTOR

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the thread that runs; set by the emulation.
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
