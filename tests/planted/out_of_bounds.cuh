// A thread writes past the end of a tensor.
#pragma once

#include <memory>

#include "planted.cuh"

__global__ inline void planted_out_of_bounds(float* y, int count, int planted) {
  const int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (k < count + planted) y[k] = 1.0f;
}

inline void out_of_bounds(int planted) {
  const std::unique_ptr<float[]> y(new float[100]);
  NEUROCUDA_LAUNCH(planted_out_of_bounds, 2, 64, 0, nullptr, y.get(), 100, planted);
}
