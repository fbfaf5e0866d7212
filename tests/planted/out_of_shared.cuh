// A thread writes past the end of the dynamic shared memory.
#pragma once

#include "planted.cuh"

__global__ inline void planted_out_of_shared(float* y, int planted) {
  NEUROCUDA_DYNAMIC_SHARED(float, shared);
  const int k = static_cast<int>(threadIdx.x);
  if (k < 24 + planted) shared[k] = 1.0f;
  __syncthreads();
  if (k == 0) *y = shared[k];
}

inline void out_of_shared(int planted) {
  float y;
  NEUROCUDA_LAUNCH(planted_out_of_shared, 1, 32, 24 * sizeof(float), nullptr, &y, planted);
}
