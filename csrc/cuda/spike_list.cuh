// Lists of the nonzero inputs (spikes) of a sum in ascending order, built by a block in shared memory, and
// the sum of the weights that a list names.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/elements.cuh"
#include "neuron_update.h"

namespace neurocuda::cuda {

constexpr int kWarp = 32;

// The mask of the lanes below a lane.
__device__ __forceinline__ unsigned below(int lane) { return (1u << lane) - 1; }

__device__ __forceinline__ int at_most(int most, std::int64_t count) {
  return count < most ? static_cast<int>(count) : most;
}

// The nonzero ones among up to kCapacity consecutive terms of a sum.
template <int threads>
struct SpikeList {
  static constexpr int kWarps = threads / kWarp;
  static constexpr int kEach = 8;  // terms per thread
  static constexpr int kCapacity = kEach * threads;
  std::int32_t terms[kCapacity];  // relative to the first of the consecutive terms
  float values[kCapacity];
  int counts[kWarps];

  // Lists the terms 0 .. count - 1, count <= kCapacity, whose value read(term) is not zero; all of them if
  // `all`. All threads of the block must call it. Returns the length of the list.
  template <class Read>
  __device__ int build(int count, bool all, Read read) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int first = warp * kEach * kWarp + lane;
    float value[kEach];
    unsigned masks[kEach];
    int nonzero = 0;  // in this warp
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      const int term = first + n * kWarp;
      value[n] = term < count ? read(term) : 0.0f;
    }
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      masks[n] = __ballot_sync(kFullWarp, (all && first + n * kWarp < count) || value[n] != 0.0f);
      nonzero += __popc(masks[n]);
    }
    __syncthreads();  // all threads have read the previous list
    if (lane == 0) counts[warp] = nonzero;
    __syncthreads();
    int at = 0, total = 0;
    for (int w = 0; w < kWarps; ++w) {
      at += w < warp ? counts[w] : 0;
      total += counts[w];
    }
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      if (masks[n] >> lane & 1) {
        const int index = at + __popc(masks[n] & below(lane));
        terms[index] = first + n * kWarp;
        values[index] = value[n];
      }
      at += __popc(masks[n]);
    }
    __syncthreads();
    return total;
  }

  // Adds the listed products to `sum`, in their order. `weight` is the weight of term 0 in this thread's
  // column, `pitch` the distance to that of the next term.
  __device__ float sum(const float* weight, std::int64_t pitch, int count, float sum) const {
    constexpr int kAhead = 8;  // loads in flight while the sums, which depend on each other, are computed
    int n = 0;
    for (; n + kAhead <= count; n += kAhead) {
      float w[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) w[k] = weight[terms[n + k] * pitch];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) sum = add(sum, multiply(w[k], values[n + k]));
    }
    for (; n < count; ++n) sum = add(sum, multiply(weight[terms[n] * pitch], values[n]));
    return sum;
  }
};

}  // namespace neurocuda::cuda
