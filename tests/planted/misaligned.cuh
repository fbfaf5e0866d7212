// An access of 16 bytes at a misaligned address.
#pragma once

#include "planted.cuh"

__global__ inline void planted_misaligned(const float* x, float* y, int planted) {
  *reinterpret_cast<float4*>(y + 4 * threadIdx.x) =
      *reinterpret_cast<const float4*>(x + 4 * threadIdx.x + planted);
}

inline void misaligned(int planted) {
  alignas(16) float x[36] = {}, y[32];
  NEUROCUDA_LAUNCH(planted_misaligned, 1, 8, 0, nullptr, x, y, planted);
}
