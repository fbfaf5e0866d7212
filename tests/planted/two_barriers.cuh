// The threads of a block wait at two different barriers.
#pragma once

#include "planted.cuh"

__global__ inline void planted_two_barriers(float* y, int planted) {
  if (threadIdx.x < 32 * planted) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = 1.0f;
}

inline void two_barriers(int planted) {
  float y[64];
  NEUROCUDA_LAUNCH(planted_two_barriers, 1, 64, 0, nullptr, y, planted);
}
