// Questions about values in device memory: every thread looks at some, and one that finds the answer to be no
// says so.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/device.cuh"
#include "params/checks.h"

namespace neurocuda::cuda {

constexpr int kAskingThreads = 256;  // of a block

// Whether any of `count` words is as `wrong(at)` says. Eight loads of a thread are on the way at a time.
template <class Wrong>
__device__ __forceinline__ bool any_word(std::int64_t count, const Wrong& wrong) {
  constexpr int kAtOnce = 8;
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  bool found = false;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < count;
       at += kAtOnce * threads) {
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (at + k * threads < count) found |= wrong(at + k * threads);
    }
  }
  return found;
}

// Words of so many bits, all ones of `exponent` in those that are not finite.
template <class Word>
__global__ void finite_kernel(const __grid_constant__ FiniteParams call, std::uint32_t exponent) {
  const auto* words = static_cast<const Word*>(call.values);
  if (any_word(call.count, [&](std::int64_t at) { return (words[at] & exponent) == exponent; })) *call.no = 1;
}

// By the nearest whole number of steps, and back: a quotient that underflows is no whole number.
__global__ void on_grid_kernel(const __grid_constant__ OnGridParams call) {
  const float each = divide(1.0f, call.step);
  const auto off = [&](std::int64_t at) {
    const float value = call.values[at];
    return !(multiply(rintf(multiply(value, each)), call.step) == value && value >= call.low &&
             value <= call.high);
  };
  if (any_word(call.count, off)) *call.no = 1;
}

// A pair for each row of blocks.
__global__ void same_bits_kernel(const __grid_constant__ SameBitsParams call) {
  const SameBitsParams::Pair& pair = call.pairs[blockIdx.y];
  const auto *a = static_cast<const char*>(pair.a), *b = static_cast<const char*>(pair.b);
  const auto places = reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b);
  const std::int64_t words = places % 4 == 0 ? pair.bytes / 4 : 0, rest = pair.bytes - 4 * words;
  const auto *words_a = reinterpret_cast<const std::uint32_t*>(a),
             *words_b = reinterpret_cast<const std::uint32_t*>(b);
  const bool differ = any_word(words, [&](std::int64_t at) { return words_a[at] != words_b[at]; }) |
                      any_word(rest, [&](std::int64_t at) { return a[4 * words + at] != b[4 * words + at]; });
  if (differ) *call.no = 1;
}

// Blocks that keep the device busy, and no more than there is work for.
inline unsigned asking_blocks(std::int64_t words) {
  const std::int64_t busy = 8 * static_cast<std::int64_t>(attribute(cudaDevAttrMultiProcessorCount));
  const std::int64_t needed = (words + 8 * kAskingThreads - 1) / (8 * kAskingThreads);
  return static_cast<unsigned>(std::max<std::int64_t>(1, std::min(busy, needed)));
}

inline void launch_finite(const FiniteParams& call, Stream stream) {
  if (call.count == 0) return;
  const unsigned blocks = asking_blocks(call.count);
  if (call.type == Element::kFloat32) {
    NEUROCUDA_LAUNCH(finite_kernel<std::uint32_t>, blocks, kAskingThreads, 0, stream, call, 0x7f800000u);
  } else {
    const std::uint32_t exponent = call.type == Element::kFloat16 ? 0x7c00u : 0x7f80u;
    NEUROCUDA_LAUNCH(finite_kernel<std::uint16_t>, blocks, kAskingThreads, 0, stream, call, exponent);
  }
}

inline void launch_on_grid(const OnGridParams& call, Stream stream) {
  if (call.count == 0) return;
  NEUROCUDA_LAUNCH(on_grid_kernel, asking_blocks(call.count), kAskingThreads, 0, stream, call);
}

inline void launch_same_bits(const SameBitsParams& call, Stream stream) {
  std::int64_t most = 0;
  for (int pair = 0; pair < call.count; ++pair) most = std::max(most, call.pairs[pair].bytes);
  if (most == 0) return;
  const dim3 blocks(asking_blocks((most + 3) / 4), static_cast<unsigned>(call.count));
  NEUROCUDA_LAUNCH(same_bits_kernel, blocks, kAskingThreads, 0, stream, call);
}

}  // namespace neurocuda::cuda
