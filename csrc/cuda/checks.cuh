// Checks of values in device memory, as grid-stride loops: every thread reads some elements, and a thread
// that finds a violation sets the flag `params.no`.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/device.cuh"
#include "params/checks.h"

namespace neurocuda::cuda {

constexpr int kCheckThreads = 256;  // per block

// Whether violates(k) for any k < count among those of this thread. Eight loads are in flight at a time.
template <class Violates>
__device__ __forceinline__ bool any_violates(std::int64_t count, const Violates& violates) {
  constexpr int kInFlight = 8;
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  bool violated = false;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < count;
       at += kInFlight * threads) {
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (at + k * threads < count) violated |= violates(at + k * threads);
    }
  }
  return violated;
}

// Elements as words of 16 or 32 bits; all bits of `exponent` are set in those that are not finite.
template <class Word>
__global__ void finite_kernel(const __grid_constant__ FiniteParams params, std::uint32_t exponent) {
  const auto* words = static_cast<const Word*>(params.values);
  if (any_violates(params.count, [&](std::int64_t at) { return (words[at] & exponent) == exponent; }))
    *params.no = 1;
}

// Rounds to the nearest multiple of the spacing and compares. A quotient that underflows is off-grid.
__global__ void on_grid_kernel(const __grid_constant__ OnGridParams params) {
  const float inverse = divide(1.0f, params.step);
  const auto off_grid = [&](std::int64_t at) {
    const float value = params.values[at];
    return !(multiply(rintf(multiply(value, inverse)), params.step) == value && value >= params.low &&
             value <= params.high);
  };
  if (any_violates(params.count, off_grid)) *params.no = 1;
}

// Each row of blocks (blockIdx.y) compares one pair.
__global__ void same_bits_kernel(const __grid_constant__ SameBitsParams params) {
  const SameBitsParams::Pair& pair = params.pairs[blockIdx.y];
  const auto *a = static_cast<const char*>(pair.a), *b = static_cast<const char*>(pair.b);
  const auto addresses = reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b);
  const std::int64_t words = addresses % 4 == 0 ? pair.bytes / 4 : 0, rest = pair.bytes - 4 * words;
  const auto *words_a = reinterpret_cast<const std::uint32_t*>(a),
             *words_b = reinterpret_cast<const std::uint32_t*>(b);
  const bool differ =
      any_violates(words, [&](std::int64_t at) { return words_a[at] != words_b[at]; }) |
      any_violates(rest, [&](std::int64_t at) { return a[4 * words + at] != b[4 * words + at]; });
  if (differ) *params.no = 1;
}

// Enough blocks to occupy the device, eight elements per thread.
inline unsigned check_blocks(std::int64_t words) {
  const std::int64_t occupied = 8 * static_cast<std::int64_t>(attribute(cudaDevAttrMultiProcessorCount));
  const std::int64_t needed = (words + 8 * kCheckThreads - 1) / (8 * kCheckThreads);
  return static_cast<unsigned>(std::max<std::int64_t>(1, std::min(occupied, needed)));
}

}  // namespace neurocuda::cuda
