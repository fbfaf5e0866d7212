// A lane returns before a shuffle whose mask contains it.
#pragma once

#include "planted.cuh"

__global__ inline void planted_missing_lane(float* y, int planted) {
  if (threadIdx.x >= 32 - planted) return;
  y[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1.0f, 1);
}

inline void missing_lane(int planted) {
  float y[32];
  NEUROCUDA_LAUNCH(planted_missing_lane, 1, 32, 0, nullptr, y, planted);
}
