// Spikes as bits, eight neurons a byte, and back.
#pragma once

#include "cuda/launch_config.cuh"
#include "cuda/signal.cuh"
#include "params/pack.h"

namespace neurocuda::cuda {

// Bytes of bits that a thread of the wide kernels reads or writes at a time are one: eight neurons.
constexpr int kPackThreads = 128;

__device__ __forceinline__ std::int64_t pack_place() {
  return std::int64_t{blockIdx.x} * kPackThreads + threadIdx.x;
}

// Eight neighbours a thread, as they lie: two accesses of float32, one of anything smaller.
__global__ __launch_bounds__(kPackThreads) static void pack_wide(const __grid_constant__ PackParams call) {
  const std::int64_t place = pack_place();
  if (place * 8 >= call.neurons) return;
  for (std::int64_t step = blockIdx.y; step < call.steps; step += gridDim.y) {
    const char* const from =
        call.spikes.data + step * call.spikes.time_stride + place * 8 * size_of(call.spikes.type);
    float spikes[8];
    if (call.spikes.type == Element::kFloat32) {
      load_floats<8>(from, spikes);
    } else {
      Raw<8> raw;
      load<8>(call.spikes.type, from, raw);
      take<8>(call.spikes.type, raw, false, spikes);
    }
    store_bits<8>(spikes, true, place * 8, reinterpret_cast<char*>(call.bits) + step * call.stride);
  }
}

// One neuron a thread, wherever it lies.
__global__ __launch_bounds__(kPackThreads) static void pack_any(const __grid_constant__ PackParams call) {
  const std::int64_t place = pack_place();
  const bool there = place < call.neurons;  // the others help to put the last bytes together
  const std::int64_t offset = there ? offset_of(call.spikes, place) : 0;
  for (std::int64_t step = blockIdx.y; step < call.steps; step += gridDim.y) {
    float spike[1] = {0.0f};
    if (there) {
      Raw<1> raw;
      load<1>(call.spikes.type, call.spikes.data + step * call.spikes.time_stride + offset, raw);
      take<1>(call.spikes.type, raw, false, spike);
    }
    store_bits<1>(spike, there, place, reinterpret_cast<char*>(call.bits) + step * call.stride);
  }
}

__global__ __launch_bounds__(kPackThreads) static void unpack_wide(const __grid_constant__ PackParams call) {
  const std::int64_t place = pack_place();
  if (place * 8 >= call.neurons) return;
  for (std::int64_t step = blockIdx.y; step < call.steps; step += gridDim.y) {
    const unsigned bits = call.bits[step * call.stride + place];
    float spikes[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) spikes[k] = static_cast<float>(bits >> k & 1u);
    store<8>(call.spikes.type, spikes,
             call.spikes.data + step * call.spikes.time_stride + place * 8 * size_of(call.spikes.type));
  }
}

__global__ __launch_bounds__(kPackThreads) static void unpack_any(const __grid_constant__ PackParams call) {
  const std::int64_t place = pack_place();
  if (place >= call.neurons) return;
  const std::int64_t offset = offset_of(call.spikes, place);
  for (std::int64_t step = blockIdx.y; step < call.steps; step += gridDim.y) {
    const unsigned bits = call.bits[step * call.stride + place / 8];
    const float spike[1] = {static_cast<float>(bits >> (place % 8) & 1u)};
    store<1>(call.spikes.type, spike, call.spikes.data + step * call.spikes.time_stride + offset);
  }
}

inline bool packs_wide(const PackParams& call) {
  return call.neurons % 8 == 0 && allows(call.spikes, 8, call.steps);
}

inline void launch_pack_spikes(const PackParams& call, Stream stream) {
  if (call.steps == 0 || call.neurons == 0) return;
  const unsigned steps = blocks_for(call.steps, 1, kMostRows);
  if (packs_wide(call)) {
    const dim3 grid(blocks_for(call.neurons / 8, kPackThreads), steps);
    NEUROCUDA_LAUNCH(pack_wide, grid, kPackThreads, 0, stream, call);
  } else {
    const dim3 grid(blocks_for(call.neurons, kPackThreads), steps);
    NEUROCUDA_LAUNCH(pack_any, grid, kPackThreads, 0, stream, call);
  }
}

inline void launch_unpack_spikes(const PackParams& call, Stream stream) {
  if (call.steps == 0 || call.neurons == 0) return;
  const unsigned steps = blocks_for(call.steps, 1, kMostRows);
  if (packs_wide(call)) {
    const dim3 grid(blocks_for(call.neurons / 8, kPackThreads), steps);
    NEUROCUDA_LAUNCH(unpack_wide, grid, kPackThreads, 0, stream, call);
  } else {
    const dim3 grid(blocks_for(call.neurons, kPackThreads), steps);
    NEUROCUDA_LAUNCH(unpack_any, grid, kPackThreads, 0, stream, call);
  }
}

}  // namespace neurocuda::cuda
