// The recurrent population, distributed variants: a warp has 32 neurons of a sample, and the warps of a
// sample are in different blocks. The spikes of a time step are exchanged through global memory: a mask per
// warp, and the values, which are read only if not all are one. Steps are separated by a grid barrier (kGrid)
// or by launches (kSteps).
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/recurrent_plan.cuh"
#include "cuda/recurrent_step.cuh"
#include "cuda/spike_list.cuh"

namespace neurocuda::cuda {

// The spikes of all samples before even and odd time steps, in params.scratch.
struct SpikeExchange {
  unsigned* arrived;  // blocks that have arrived at the grid barrier, in total
  unsigned* masks;    // [2, samples, words]
  float* values;      // [2, samples, neurons]
  std::int64_t samples, neurons, words;

  SpikeExchange(const RecurrentParams& params, const RecurrentPlan& plan)
      : arrived(static_cast<unsigned*>(params.scratch)),
        masks(arrived + 4),
        values(reinterpret_cast<float*>(masks + 2 * params.samples * plan.words)),
        samples(params.samples),
        neurons(params.neurons),
        words(plan.words) {}

  // The spikes of a sample that time step `step` reads.
  __device__ __forceinline__ unsigned* masks_before(std::int64_t step, std::int64_t sample) const {
    return masks + ((step & 1) * samples + sample) * words;
  }
  __device__ __forceinline__ float* values_before(std::int64_t step, std::int64_t sample) const {
    return values + ((step & 1) * samples + sample) * neurons;
  }
};

// Loads a value that another block may have written during this kernel: bypasses the L1 cache, which may be
// stale.
template <class Value>
__device__ __forceinline__ Value load_fresh(const Value* from) {
#if defined(__CUDA_ARCH__)
  return __ldcg(from);
#else
  return *from;
#endif
}

// Stores the spikes of a warp's neurons for time step `step`. All threads of the warp must call it.
__device__ __forceinline__ void publish(const SpikeExchange& all, std::int64_t step, std::int64_t sample,
                                        std::int64_t word, float spikes, bool valid) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const unsigned mask = __ballot_sync(kFullWarp, valid && spikes != 0.0f);
  if (lane == 0) all.masks_before(step, sample)[word] = mask;
  if (valid) all.values_before(step, sample)[word * kWarp + lane] = spikes;
}

// Stores the spikes before the first time step, and resets the barrier.
__global__ void __launch_bounds__(kStepWarps* kWarp, 2)
    recurrent_first_spikes(const RecurrentParams params, const SpikeExchange all) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * kStepWarps;
  if (blockIdx.x == 0 && threadIdx.x == 0) *all.arrived = 0;
  for (std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * kStepWarps + threadIdx.x / kWarp;
       unit < all.samples * all.words; unit += warps) {
    const std::int64_t sample = unit / all.words, word = unit % all.words;
    const std::int64_t neuron = word * kWarp + lane;
    const bool valid = neuron < all.neurons;
    publish(all, 0, sample, word, valid ? read_neuron(params.previous, sample * all.neurons + neuron) : 0.0f,
            valid);
  }
}

// The sum of the weights of the neurons that spiked, in ascending order, times their spikes unless all are
// `ones`. `weight` is row 0 of this thread's column. Four loads are in flight; terms past the end are zero,
// which changes no sum.
__device__ __forceinline__ float sum_spikes(const SpikeExchange& all, std::int64_t step, std::int64_t sample,
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

// One time step of a warp's neurons; `weight` as in sum_spikes. All threads of the warp must call it.
template <class Kind>
__device__ __forceinline__ void warp_step(const RecurrentParams& params, const SpikeExchange& all,
                                          std::int64_t step, std::int64_t sample, std::int64_t word,
                                          const float* weight, std::int64_t pitch) {
  const std::int64_t neuron = word * kWarp + threadIdx.x % kWarp;
  const bool valid = neuron < all.neurons;
  const std::int64_t n = sample * all.neurons + (valid ? neuron : 0);
  Inputs<kMaxBranches> inputs;
  inputs.locate(params, n);
  inputs.load_step(params, step);
  const bool ones = step > 0 && emits_ones(params.kind);
  float current = sum_spikes(all, step, sample, weight, pitch, ones);
  float spikes = 0.0f;
  if (valid) {
    if (params.bias != nullptr)
      current = add(current, params.bias[sample % params.matrices * all.neurons + neuron]);
    const NeuronCoefficients c = coefficients_at(params.coefficients, n);
    const bool synapse = params.i.data != nullptr;
    NeuronState state{read_neuron(params.v, n), synapse ? read_neuron(params.i, n) : 0.0f};
    spikes = update_as(Kind(), params.kind, inputs.sum(params, current), c, state);
    const auto trace = [&](const Signal& signal, std::int64_t at, float value) {
      if (signal.data != nullptr) trace_step(signal, address_of(signal, n), at, value);
    };
    trace(params.v, 0, state.v);
    trace(params.i, 0, state.i);
    trace(params.trace_v, step, state.v);
    trace(params.trace_i, step, state.i);
    trace(params.trace_recurrent, step, current);
    write_step(params.output, address_of(params.output, n), step, spikes);
    if (step + 1 == params.steps) write_step(params.previous, address_of(params.previous, n), 0, spikes);
  }
  publish(all, step + 1, sample, word, spikes, valid);
}

// kSteps: one time step of all samples; warps loop over units of 32 neurons of a sample.
template <class Kind>
__device__ __forceinline__ void one_step(const RecurrentParams& params, const SpikeExchange& all,
                                         std::int64_t step) {
  const std::int64_t padded = padded_features(all.neurons);
  const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * kStepWarps;
  for (std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * kStepWarps + threadIdx.x / kWarp;
       unit < all.samples * all.words; unit += warps) {
    const std::int64_t sample = unit / all.words, word = unit % all.words;
    const std::int64_t column = word * kWarp + threadIdx.x % kWarp;
    const float* weight = params.prepacked + sample % params.matrices * all.neurons * padded;
    warp_step<Kind>(params, all, step, sample, word, weight + (column < padded ? column : 0), padded);
  }
}

__global__ void __launch_bounds__(kStepWarps* kWarp, 2)
    recurrent_one_step(const RecurrentParams params, const SpikeExchange all, std::int64_t step) {
  one_step<AnyKind>(params, all, step);
}

// The only variant for kinds that are general().
__global__ void __launch_bounds__(kStepWarps* kWarp, 2)
    recurrent_general_step(const RecurrentParams params, const SpikeExchange all, std::int64_t step) {
  one_step<AnyGeneralKind>(params, all, step);
}

// Waits until all blocks of the grid have arrived. Needs a cooperative launch, as otherwise blocks that are
// not resident would never arrive. The emulation launches every step separately and needs no barrier.
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

// kGrid: time steps first .. last - 1. A block has 32 columns of one matrix, whose weights it keeps in shared
// memory, and the samples of one group, which its warps share. Blocks are numbered by matrix, word and group.
__global__ void __launch_bounds__(kMaxThreads, 1)
    recurrent_grid(const RecurrentParams params, const SpikeExchange all, const RecurrentPlan plan,
                   std::int64_t first, std::int64_t last) {
  NEUROCUDA_DYNAMIC_SHARED(float, weight);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int group = static_cast<int>(blockIdx.x) % plan.groups;
  const std::int64_t word = blockIdx.x / plan.groups % all.words;
  const std::int64_t matrix = blockIdx.x / plan.groups / all.words;
  const std::int64_t padded = padded_features(all.neurons), column = word * kWarp + lane;
  const float* prepacked = params.prepacked + matrix * all.neurons * padded;
  for (std::int64_t from = warp; from < all.neurons; from += plan.samples)
    weight[from * kWarp + lane] = column < padded ? prepacked[from * padded + column] : 0.0f;
  __syncthreads();
  const std::int64_t rows = all.samples / params.matrices;
  unsigned expected = 0;
  for (std::int64_t step = first; step < last; ++step) {
    for (std::int64_t row = group + static_cast<std::int64_t>(warp) * plan.groups; row < rows;
         row += static_cast<std::int64_t>(plan.samples) * plan.groups)
      warp_step<AnyKind>(params, all, step, row * params.matrices + matrix, word, weight + lane, kWarp);
    expected += gridDim.x;
    if (step + 1 < last) grid_barrier(all.arrived, expected);
  }
}

}  // namespace neurocuda::cuda
