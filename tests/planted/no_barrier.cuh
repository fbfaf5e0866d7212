// Threads read shared memory before other threads have written it: a missing barrier.
#pragma once

#include "planted.cuh"

__global__ inline void planted_no_barrier(const float* x, float* y, int planted) {
  NEUROCUDA_DYNAMIC_SHARED(float, shared);
  shared[threadIdx.x] = x[threadIdx.x];
  if (!planted) __syncthreads();
  y[threadIdx.x] = shared[63 - threadIdx.x];
}

inline void no_barrier(int planted) {
  float x[64], y[64];
  for (int k = 0; k < 64; ++k) x[k] = static_cast<float>(k);
  NEUROCUDA_LAUNCH(planted_no_barrier, 1, 64, 64 * sizeof(float), nullptr, x, y, planted);
  for (int k = 0; k < 64; ++k) expect(y[k] == x[63 - k], "planted_no_barrier");
}
