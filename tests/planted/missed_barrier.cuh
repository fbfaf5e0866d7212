// A thread returns before a barrier that the others wait at.
#pragma once

#include "planted.cuh"

__global__ inline void planted_missed_barrier(float* y, int planted) {
  if (threadIdx.x >= 64 - planted) return;
  __syncthreads();
  y[threadIdx.x] = 1.0f;
}

inline void missed_barrier(int planted) {
  float y[64];
  NEUROCUDA_LAUNCH(planted_missed_barrier, 1, 64, 0, nullptr, y, planted);
}
