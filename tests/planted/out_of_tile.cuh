// A thread writes past the end of a shared variable.
#pragma once

#include "planted.cuh"

__global__ inline void planted_out_of_tile(float* y, int planted) {
  NEUROCUDA_SHARED(float, tile, [24]);
  const int k = static_cast<int>(threadIdx.x);
  if (k < 24 + planted) tile[k] = 1.0f;
  __syncthreads();
  if (k == 0) *y = tile[k];
}

inline void out_of_tile(int planted) {
  float y;
  NEUROCUDA_LAUNCH(planted_out_of_tile, 1, 32, 0, nullptr, &y, planted);
}
