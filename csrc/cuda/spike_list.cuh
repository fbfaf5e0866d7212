// Spikes, or any values that are not zero, as lists in ascending order, built by the threads of a block; and
// the sums of the rows of a matrix that such a list names.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/elements.cuh"
#include "neuron_update.h"

namespace neurocuda::cuda {

constexpr int kWarp = 32;

// The bits of a mask below that of a lane.
__device__ __forceinline__ unsigned below(int lane) { return (1u << lane) - 1; }

__device__ __forceinline__ int at_most(int most, std::int64_t count) {
  return count < most ? static_cast<int>(count) : most;
}

// Some terms of a sum, at most kCapacity, and the spikes among them.
template <int threads>
struct SpikeList {
  static constexpr int kWarps = threads / kWarp;
  static constexpr int kEach = 8;  // terms that a thread looks at
  static constexpr int kCapacity = kEach * threads;
  std::int32_t terms[kCapacity];  // counted from the first of those looked at
  float values[kCapacity];
  int counts[kWarps];

  // Lists those of terms 0 .. count - 1, at most kCapacity, whose value read(term) is not zero, or, where
  // `all`, every one. For all threads of the block; returns the length of the list, which they may read.
  template <class Read>
  __device__ int build(int count, bool all, Read read) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int first = warp * kEach * kWarp + lane;
    float value[kEach];
    unsigned masks[kEach];
    int own = 0;
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      const int term = first + n * kWarp;
      value[n] = term < count ? read(term) : 0.0f;
    }
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      masks[n] = __ballot_sync(kWholeWarp, (all && first + n * kWarp < count) || value[n] != 0.0f);
      own += __popc(masks[n]);
    }
    __syncthreads();  // the list before is read no more
    if (lane == 0) counts[warp] = own;
    __syncthreads();
    int at = 0, total = 0;
    for (int w = 0; w < kWarps; ++w) {
      at += w < warp ? counts[w] : 0;
      total += counts[w];
    }
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      if (masks[n] >> lane & 1) {
        const int place = at + __popc(masks[n] & below(lane));
        terms[place] = first + n * kWarp;
        values[place] = value[n];
      }
      at += __popc(masks[n]);
    }
    __syncthreads();
    return total;
  }

  // Adds the listed rows of a matrix to a sum, in their order: `weight` is the element of this thread's
  // column in the row of term 0.
  __device__ float sum(const float* weight, std::int64_t pitch, int count, float sum) const {
    constexpr int kAhead = 8;  // loads on their way while sums wait for one another
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
