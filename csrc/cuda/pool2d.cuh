// Sums and means of windows of images: a thread for each output element. The threads of a block cover rows of
// the output, so that neighbouring threads read neighbouring columns.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/elements.cuh"
#include "cuda/launch_config.cuh"
#include "neuron_update.h"
#include "params/pool2d.h"

namespace neurocuda::cuda {

constexpr int kPoolThreads = 256;

// The sum of the window at (top, left) of an image, row by row, from zero; rows are `pitch` elements apart,
// columns `inner`. Windows of size x size are loaded completely before they are summed; size 0: any, element
// by element.
template <Element type, int size>
__device__ __forceinline__ float sum_window(const Pool2d& params, const char* image, std::int64_t pitch,
                                            std::int64_t top, std::int64_t left) {
  float sum[1] = {0.0f};
  if constexpr (size > 0) {
    Raw<1> raw[size][size];
    bool inside[size][size];
#pragma unroll
    for (int y = 0; y < size; ++y) {
#pragma unroll
      for (int x = 0; x < size; ++x) {
        const std::int64_t row = top + y, column = left + x;
        inside[y][x] = row >= 0 && row < params.rows.in && column >= 0 && column < params.columns.in;
        raw[y][x] = {};
        if (inside[y][x])
          load<1>(type, image + (row * pitch + column * params.inner) * size_of(type), raw[y][x]);
      }
    }
#pragma unroll
    for (int y = 0; y < size; ++y) {
#pragma unroll
      for (int x = 0; x < size; ++x)
        if (inside[y][x]) convert<1>(type, raw[y][x], true, sum);
    }
  } else {
    const std::int64_t bottom = top + params.rows.kernel, right = left + params.columns.kernel;
    for (std::int64_t row = top < 0 ? 0 : top; row < bottom && row < params.rows.in; ++row) {
      for (std::int64_t column = left < 0 ? 0 : left; column < right && column < params.columns.in;
           ++column) {
        Raw<1> raw;
        load<1>(type, image + (row * pitch + column * params.inner) * size_of(type), raw);
        convert<1>(type, raw, true, sum);
      }
    }
  }
  return sum[0];
}

// `across` threads, a power of two, per output row; a block has kPoolThreads / across rows.
template <Element type, int size>
__global__ void __launch_bounds__(kPoolThreads, 3) pool2d_windows(const Pool2d params, int across) {
  const int thread = static_cast<int>(threadIdx.x), down = kPoolThreads / across;
  const std::int64_t rows = params.planes * params.rows.out, width = params.columns.out * params.inner;
  const std::int64_t pitch = params.columns.in * params.inner;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * down; first < rows;
       first += static_cast<std::int64_t>(gridDim.x) * down) {
    const std::int64_t row = first + thread / across;
    if (row >= rows) return;
    const std::int64_t plane = row / params.rows.out, line = row - plane * params.rows.out;
    const char* image = params.x + plane * params.rows.in * pitch * size_of(type);
    for (std::int64_t at = thread % across; at < width; at += across) {
      const std::int64_t column = params.inner == 1 ? at : at / params.inner,
                         channel = at - column * params.inner;
      const float sum = sum_window<type, size>(params, image + channel * size_of(type), pitch,
                                               line * params.rows.stride - params.rows.pad,
                                               column * params.columns.stride - params.columns.pad);
      params.y[row * width + at] = params.area == 1.0f ? sum : divide(sum, params.area);
    }
  }
}

template <Element type, int size>
void launch_windows(const Pool2d& params, Stream stream) {
  const std::int64_t rows = params.planes * params.rows.out, width = params.columns.out * params.inner;
  if (rows == 0 || width == 0) return;
  int across = 1;
  while (across < kPoolThreads && across < width) across *= 2;
  const std::int64_t blocks = (rows * across + kPoolThreads - 1) / kPoolThreads;
  NEUROCUDA_LAUNCH((pool2d_windows<type, size>), grid_of(blocks), kPoolThreads, 0, stream, params, across);
}

template <Element type>
void launch_pool2d(const Pool2d& params, Stream stream) {
  const std::int64_t size = params.rows.kernel == params.columns.kernel ? params.rows.kernel : 0;
  if (size == 2) return launch_windows<type, 2>(params, stream);
  if (size == 3) return launch_windows<type, 3>(params, stream);
  launch_windows<type, 0>(params, stream);
}

}  // namespace neurocuda::cuda
