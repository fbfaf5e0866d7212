// Sums and means of windows of images: a thread for each of them.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/elements.cuh"
#include "cuda/limits.cuh"
#include "neuron_update.h"
#include "params/pool2d.h"

namespace neurocuda::cuda {

constexpr int kPoolThreads = 256;

// The sum of the elements of an image, `pitch` apart from row to row and `inner` from column to column, that
// lie in the window from (top, left), row by row. Windows of size x size are loaded as a whole before they
// are summed, others element by element.
template <Element type, int size>
__device__ __forceinline__ float sum_window(const Pool2d& job, const char* image, std::int64_t pitch,
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
        inside[y][x] = row >= 0 && row < job.rows.in && column >= 0 && column < job.columns.in;
        raw[y][x] = {};
        if (inside[y][x])
          load<1>(type, image + (row * pitch + column * job.inner) * size_of(type), raw[y][x]);
      }
    }
#pragma unroll
    for (int y = 0; y < size; ++y) {
#pragma unroll
      for (int x = 0; x < size; ++x)
        if (inside[y][x]) take<1>(type, raw[y][x], true, sum);
    }
  } else {
    const std::int64_t bottom = top + job.rows.kernel, right = left + job.columns.kernel;
    for (std::int64_t row = top < 0 ? 0 : top; row < bottom && row < job.rows.in; ++row) {
      for (std::int64_t column = left < 0 ? 0 : left; column < right && column < job.columns.in; ++column) {
        Raw<1> raw;
        load<1>(type, image + (row * pitch + column * job.inner) * size_of(type), raw);
        take<1>(type, raw, true, sum);
      }
    }
  }
  return sum[0];
}

// Threads stand side by side along the elements of an output row, `across` of them, a power of two; where a
// row is shorter than a block, several rows stand under one another.
template <Element type, int size>
__global__ void __launch_bounds__(kPoolThreads, 3) pool2d_windows(const Pool2d job, int across) {
  const int thread = static_cast<int>(threadIdx.x), down = kPoolThreads / across;
  const std::int64_t rows = job.planes * job.rows.out, width = job.columns.out * job.inner;
  const std::int64_t pitch = job.columns.in * job.inner;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * down; first < rows;
       first += static_cast<std::int64_t>(gridDim.x) * down) {
    const std::int64_t row = first + thread / across;
    if (row >= rows) return;
    const std::int64_t plane = row / job.rows.out, line = row - plane * job.rows.out;
    const char* image = job.x + plane * job.rows.in * pitch * size_of(type);
    for (std::int64_t at = thread % across; at < width; at += across) {
      const std::int64_t column = job.inner == 1 ? at : at / job.inner, channel = at - column * job.inner;
      const float sum = sum_window<type, size>(job, image + channel * size_of(type), pitch,
                                               line * job.rows.stride - job.rows.pad,
                                               column * job.columns.stride - job.columns.pad);
      job.y[row * width + at] = job.area == 1.0f ? sum : divide(sum, job.area);
    }
  }
}

template <Element type, int size>
void launch_windows(const Pool2d& job, Stream stream) {
  const std::int64_t rows = job.planes * job.rows.out, width = job.columns.out * job.inner;
  if (rows == 0 || width == 0) return;
  int across = 1;
  while (across < kPoolThreads && across < width) across *= 2;
  const std::int64_t blocks = (rows * across + kPoolThreads - 1) / kPoolThreads;
  NEUROCUDA_LAUNCH((pool2d_windows<type, size>), grid_of(blocks), kPoolThreads, 0, stream, job, across);
}

template <Element type>
void launch_pool2d(const Pool2d& job, Stream stream) {
  const std::int64_t size = job.rows.kernel == job.columns.kernel ? job.rows.kernel : 0;
  if (size == 2) return launch_windows<type, 2>(job, stream);
  if (size == 3) return launch_windows<type, 3>(job, stream);
  launch_windows<type, 0>(job, stream);
}

inline void launch_pool2d(const Pool2d& job, Stream stream) {
  switch (job.type) {
    case Element::kFloat32:
      return launch_pool2d<Element::kFloat32>(job, stream);
    case Element::kFloat16:
      return launch_pool2d<Element::kFloat16>(job, stream);
    case Element::kBFloat16:
      return launch_pool2d<Element::kBFloat16>(job, stream);
    case Element::kUInt8:
      return launch_pool2d<Element::kUInt8>(job, stream);
    case Element::kBool:
      return launch_pool2d<Element::kBool>(job, stream);
  }
}

}  // namespace neurocuda::cuda
