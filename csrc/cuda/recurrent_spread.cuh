// The neurons of a sample are spread over warps, 32 for each, and these over blocks; from step to step spikes
// go through memory: a mask for each warp, and values where they are not all one.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/recurrent_plan.cuh"
#include "cuda/recurrent_step.cuh"
#include "cuda/spike_list.cuh"

namespace neurocuda::cuda {

// The spikes of all samples in an even and in an odd step, in the memory that the caller lends.
struct SpreadSpikes {
  unsigned* arrived;  // blocks at the barrier, so far
  unsigned* masks;    // [2, samples, words]
  float* values;      // [2, samples, neurons]
  std::int64_t samples, neurons, words;

  SpreadSpikes(const RecurrentParams& call, const RecurrentPlan& plan)
      : arrived(static_cast<unsigned*>(call.scratch)),
        masks(arrived + 4),
        values(reinterpret_cast<float*>(masks + 2 * call.samples * plan.words)),
        samples(call.samples),
        neurons(call.neurons),
        words(plan.words) {}

  // Of a sample, before a step.
  __device__ __forceinline__ unsigned* masks_before(std::int64_t step, std::int64_t sample) const {
    return masks + ((step & 1) * samples + sample) * words;
  }
  __device__ __forceinline__ float* values_before(std::int64_t step, std::int64_t sample) const {
    return values + ((step & 1) * samples + sample) * neurons;
  }
};

// What another block has written while this kernel runs: past the first-level cache, which may hold an older
// value.
template <class Value>
__device__ __forceinline__ Value load_fresh(const Value* from) {
#if defined(__CUDA_ARCH__)
  return __ldcg(from);
#else
  return *from;
#endif
}

// Spikes of a warp's neurons, to be read before a step. For all of the warp.
__device__ __forceinline__ void publish(const SpreadSpikes& all, std::int64_t step, std::int64_t sample,
                                        std::int64_t word, float spikes, bool there) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const unsigned mask = __ballot_sync(kWholeWarp, there && spikes != 0.0f);
  if (lane == 0) all.masks_before(step, sample)[word] = mask;
  if (there) all.values_before(step, sample)[word * kWarp + lane] = spikes;
}

// The spikes of the step before the first.
__global__ void __launch_bounds__(kSpreadWarps* kWarp, 2)
    recurrent_first_spikes(const RecurrentParams call, const SpreadSpikes all) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * kSpreadWarps;
  if (blockIdx.x == 0 && threadIdx.x == 0) *all.arrived = 0;
  for (std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * kSpreadWarps + threadIdx.x / kWarp;
       unit < all.samples * all.words; unit += warps) {
    const std::int64_t sample = unit / all.words, word = unit % all.words;
    const std::int64_t neuron = word * kWarp + lane;
    const bool there = neuron < all.neurons;
    publish(all, 0, sample, word, there ? read_neuron(call.previous, sample * all.neurons + neuron) : 0.0f,
            there);
  }
}

// The rows of a sample's spikes, added in ascending order: `weight` is the element of this thread's column in
// row 0. Four rows are on their way at once; what there is not adds zero, which changes nothing.
__device__ __forceinline__ float sum_spread(const SpreadSpikes& all, std::int64_t step, std::int64_t sample,
                                            const float* weight, std::int64_t pitch, bool ones) {
  const unsigned* masks = all.masks_before(step, sample);
  const float* values = all.values_before(step, sample);
  float sum = 0.0f;
  unsigned next = load_fresh(masks);
  for (std::int64_t word = 0; word < all.words; ++word) {
    unsigned left = next;
    if (word + 1 < all.words) next = load_fresh(masks + word + 1);
    while (left != 0) {
      float term[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        term[k] = 0.0f;
        if (left == 0) continue;
        const std::int64_t neuron = word * kWarp + __ffs(static_cast<int>(left)) - 1;
        left &= left - 1;
        term[k] = weight[neuron * pitch];
        if (!ones) term[k] = multiply(term[k], load_fresh(values + neuron));
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) sum = add(sum, term[k]);
    }
  }
  return sum;
}

// One step of the neurons of a warp; `weight` as above. For all of the warp.
__device__ __forceinline__ void spread_step(const RecurrentParams& call, const SpreadSpikes& all,
                                            std::int64_t step, std::int64_t sample, std::int64_t word,
                                            const float* weight, std::int64_t pitch) {
  const std::int64_t neuron = word * kWarp + threadIdx.x % kWarp;
  const bool there = neuron < all.neurons;
  const std::int64_t n = sample * all.neurons + (there ? neuron : 0);
  Inputs<kMaxBranches> inputs;
  inputs.find(call, n);
  inputs.bring(call, step);
  const bool ones = step > 0 && emits_ones(call.kind);
  float current = sum_spread(all, step, sample, weight, pitch, ones);
  float spikes = 0.0f;
  if (there) {
    if (call.bias != nullptr)
      current = add(current, call.bias[sample % call.matrices * all.neurons + neuron]);
    const NeuronCoefficients c = coefficients_at(call.coefficients, n);
    const bool synapse = call.i.data != nullptr;
    NeuronState state{read_neuron(call.v, n), synapse ? read_neuron(call.i, n) : 0.0f};
    spikes = update_as(AnyKind(), call.kind, inputs.sum(call, current), c, state);
    const auto trace = [&](const Signal& signal, std::int64_t at, float value) {
      if (signal.data != nullptr) trace_step(signal, place_of(signal, n), at, value);
    };
    trace(call.v, 0, state.v);
    trace(call.i, 0, state.i);
    trace(call.trace_v, step, state.v);
    trace(call.trace_i, step, state.i);
    trace(call.trace_recurrent, step, current);
    write_step(call.output, place_of(call.output, n), step, spikes);
    if (step + 1 == call.steps) write_step(call.previous, place_of(call.previous, n), 0, spikes);
  }
  publish(all, step + 1, sample, word, spikes, there);
}

// A step of all samples: warps go on from unit to unit.
__global__ void __launch_bounds__(kSpreadWarps* kWarp, 2)
    recurrent_one_step(const RecurrentParams call, const SpreadSpikes all, std::int64_t step) {
  const std::int64_t padded = padded_features(all.neurons);
  const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * kSpreadWarps;
  for (std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * kSpreadWarps + threadIdx.x / kWarp;
       unit < all.samples * all.words; unit += warps) {
    const std::int64_t sample = unit / all.words, word = unit % all.words;
    const std::int64_t column = word * kWarp + threadIdx.x % kWarp;
    const float* weight = call.packed + sample % call.matrices * all.neurons * padded;
    spread_step(call, all, step, sample, word, weight + (column < padded ? column : 0), padded);
  }
}

// Waits until all blocks have come as far. They all run at once, or would wait forever: launched so, or there
// is nothing to wait for.
__device__ __forceinline__ void grid_barrier(unsigned* arrived, unsigned expected) {
#if defined(__CUDA_ARCH__)
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrived, 1u);
    while (*static_cast<volatile unsigned*>(arrived) < expected) {
    }
    __threadfence();
  }
  __syncthreads();
#endif
}

// Steps first .. last - 1: each block has 32 columns of one matrix, whose weights it keeps in shared memory,
// and the samples of one group, a warp for each. Blocks are numbered by matrix, word and group.
__global__ void __launch_bounds__(kMostThreads, 1)
    recurrent_grid(const RecurrentParams call, const SpreadSpikes all, const RecurrentPlan plan,
                   std::int64_t first, std::int64_t last) {
  NEUROCUDA_DYNAMIC_SHARED(float, weight);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int group = static_cast<int>(blockIdx.x) % plan.groups;
  const std::int64_t word = blockIdx.x / plan.groups % all.words;
  const std::int64_t matrix = blockIdx.x / plan.groups / all.words;
  const std::int64_t padded = padded_features(all.neurons), column = word * kWarp + lane;
  const float* packed = call.packed + matrix * all.neurons * padded;
  for (std::int64_t from = warp; from < all.neurons; from += plan.samples)
    weight[from * kWarp + lane] = column < padded ? packed[from * padded + column] : 0.0f;
  __syncthreads();
  const std::int64_t rows = all.samples / call.matrices;
  unsigned expected = 0;
  for (std::int64_t step = first; step < last; ++step) {
    for (std::int64_t row = group + static_cast<std::int64_t>(warp) * plan.groups; row < rows;
         row += static_cast<std::int64_t>(plan.samples) * plan.groups)
      spread_step(call, all, step, row * call.matrices + matrix, word, weight + lane, kWarp);
    expected += gridDim.x;
    if (step + 1 < last) grid_barrier(all.arrived, expected);
  }
}

}  // namespace neurocuda::cuda
