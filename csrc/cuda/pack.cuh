// Packs spikes as bits, eight neurons per byte, and unpacks them. Blocks are distributed over neurons (x) and
// time steps (y); a thread has eight neurons (wide: one byte) or one (any), and loops over the steps of its
// block.
#pragma once

#include "cuda/launch_config.cuh"
#include "cuda/signal.cuh"
#include "params/pack.h"

namespace neurocuda::cuda {

constexpr int kPackThreads = 128;

__device__ __forceinline__ std::int64_t pack_index() {
  return std::int64_t{blockIdx.x} * kPackThreads + threadIdx.x;
}

// Two accesses of float32, or one of a narrower type.
__global__ __launch_bounds__(kPackThreads) static void pack_wide(const __grid_constant__ PackParams params) {
  const std::int64_t index = pack_index();
  if (index * 8 >= params.neurons) return;
  for (std::int64_t step = blockIdx.y; step < params.steps; step += gridDim.y) {
    const char* const from =
        params.spikes.data + step * params.spikes.time_stride + index * 8 * size_of(params.spikes.type);
    float spikes[8];
    if (params.spikes.type == Element::kFloat32) {
      load_floats<8>(from, spikes);
    } else {
      Raw<8> raw;
      load<8>(params.spikes.type, from, raw);
      convert<8>(params.spikes.type, raw, false, spikes);
    }
    store_bits<8>(spikes, true, index * 8, reinterpret_cast<char*>(params.bits) + step * params.stride);
  }
}

// Any strides and alignment.
__global__ __launch_bounds__(kPackThreads) static void pack_any(const __grid_constant__ PackParams params) {
  const std::int64_t index = pack_index();
  const bool valid = index < params.neurons;  // the other threads stay for the warp operations
  const std::int64_t offset = valid ? offset_of(params.spikes, index) : 0;
  for (std::int64_t step = blockIdx.y; step < params.steps; step += gridDim.y) {
    float spike[1] = {0.0f};
    if (valid) {
      Raw<1> raw;
      load<1>(params.spikes.type, params.spikes.data + step * params.spikes.time_stride + offset, raw);
      convert<1>(params.spikes.type, raw, false, spike);
    }
    store_bits<1>(spike, valid, index, reinterpret_cast<char*>(params.bits) + step * params.stride);
  }
}

__global__ __launch_bounds__(kPackThreads) static void unpack_wide(
    const __grid_constant__ PackParams params) {
  const std::int64_t index = pack_index();
  if (index * 8 >= params.neurons) return;
  for (std::int64_t step = blockIdx.y; step < params.steps; step += gridDim.y) {
    const unsigned bits = params.bits[step * params.stride + index];
    float spikes[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) spikes[k] = static_cast<float>(bits >> k & 1u);
    store<8>(params.spikes.type, spikes,
             params.spikes.data + step * params.spikes.time_stride + index * 8 * size_of(params.spikes.type));
  }
}

__global__ __launch_bounds__(kPackThreads) static void unpack_any(const __grid_constant__ PackParams params) {
  const std::int64_t index = pack_index();
  if (index >= params.neurons) return;
  const std::int64_t offset = offset_of(params.spikes, index);
  for (std::int64_t step = blockIdx.y; step < params.steps; step += gridDim.y) {
    const unsigned bits = params.bits[step * params.stride + index / 8];
    const float spike[1] = {static_cast<float>(bits >> (index % 8) & 1u)};
    store<1>(params.spikes.type, spike, params.spikes.data + step * params.spikes.time_stride + offset);
  }
}

}  // namespace neurocuda::cuda
