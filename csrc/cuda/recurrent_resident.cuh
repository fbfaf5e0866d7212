// The recurrent population, resident variants: a block has some samples for all time steps and a thread per
// neuron, whose state stays in registers. The weights are copied to shared memory once (kShared) or read from
// global memory through the caches (kGlobal); the spikes of a step are exchanged through shared memory.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/recurrent_plan.cuh"
#include "cuda/recurrent_step.cuh"
#include "cuda/spike_list.cuh"

namespace neurocuda::cuda {

// The neurons of a sample that spiked in the previous time step, in ascending order, in shared memory. All
// threads of the block call build().
class SampleSpikes {
 public:
  __device__ SampleSpikes(unsigned char* memory, int neurons, int thread, int threads)
      : values_(reinterpret_cast<Quad*>(memory)),
        neurons_(reinterpret_cast<Neurons*>(values_ + (neurons + 3) / 4)),
        masks_(reinterpret_cast<unsigned*>(neurons_ + (neurons + 3) / 4)),
        thread_(thread),
        warps_(threads / kWarp) {}

  __device__ __forceinline__ void build(float spikes) {
    const int lane = thread_ % kWarp, warp = thread_ / kWarp;
    const unsigned mask = __ballot_sync(kFullWarp, spikes != 0.0f);
    if (lane == 0) masks_[warp] = mask;
    __syncthreads();  // all threads have read the previous list
    int index = __popc(mask & below(lane));
    count_ = 0;
#pragma unroll 4
    for (int w = 0; w < warps_; ++w) {
      const int count = __popc(masks_[w]);
      index += w < warp ? count : 0;
      count_ += count;
    }
    if (spikes != 0.0f) {
      neurons_[index / 4].at[index % 4] = static_cast<std::uint16_t>(thread_);
      values_[index / 4].at[index % 4] = spikes;
    }
    __syncthreads();
  }

  // The sum of the weights of these neurons, times their spikes unless all are `ones`, from zero. `weight` is
  // row 0 of this thread's column. 4 * `quads` loads are in flight.
  template <int quads>
  __device__ __forceinline__ float sum(const float* weight, int pitch, bool ones) const {
    return ones ? sum<quads, true>(weight, pitch) : sum<quads, false>(weight, pitch);
  }

 private:
  struct alignas(8) Neurons {
    std::uint16_t at[4];
  };
  struct alignas(16) Quad {
    float at[4];
  };

  template <int quads, bool ones>
  __device__ __forceinline__ float sum(const float* weight, int pitch) const {
    float sum = 0.0f;
    int quad = 0;
    for (; (quad + quads) * 4 <= count_; quad += quads) {
      float term[quads][4];
#pragma unroll
      for (int q = 0; q < quads; ++q) {
        const Neurons neurons = neurons_[quad + q];
#pragma unroll
        for (int k = 0; k < 4; ++k) term[q][k] = weight[neurons.at[k] * pitch];
      }
#pragma unroll
      for (int q = 0; q < quads; ++q) {
        const Quad values = ones ? Quad{} : values_[quad + q];
#pragma unroll
        for (int k = 0; k < 4; ++k) sum = add(sum, ones ? term[q][k] : multiply(term[q][k], values.at[k]));
      }
    }
    for (; quad * 4 < count_; ++quad) {  // terms past the end are zero, which changes no sum
      const Neurons neurons = neurons_[quad];
      const Quad values = ones ? Quad{} : values_[quad];
      float term[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) term[k] = quad * 4 + k < count_ ? weight[neurons.at[k] * pitch] : 0.0f;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const bool times = !ones && quad * 4 + k < count_;
        sum = add(sum, times ? multiply(term[k], values.at[k]) : term[k]);
      }
    }
    return sum;
  }

  Quad* values_;
  Neurons* neurons_;
  unsigned* masks_;
  int thread_, warps_, count_ = 0;
};

// Time steps whose inputs are prefetched.
template <int branches>
constexpr int kPrefetchedSteps = branches == 1 ? 4 : 1;

template <class Kind, int branches, bool shared>
__global__ void __launch_bounds__(kMaxThreads, 1)
    recurrent_resident(const RecurrentParams params, const RecurrentPlan plan) {
  NEUROCUDA_DYNAMIC_SHARED(unsigned char, memory);
  unsigned char* lists = memory;  // of spikes
  constexpr int kAhead = kPrefetchedSteps<branches>;
  const int neurons = static_cast<int>(params.neurons), padded = static_cast<int>(padded_features(neurons));
  const int group = static_cast<int>(threadIdx.x) / plan.threads;
  const int neuron = static_cast<int>(threadIdx.x) % plan.threads;
  const std::int64_t rows = params.samples / params.matrices;
  const std::int64_t tiles = (rows + plan.samples - 1) / plan.samples;
  const std::int64_t matrix = blockIdx.x / tiles, row = blockIdx.x % tiles * plan.samples + group;
  const bool valid = row < rows && neuron < neurons;
  const std::int64_t n = valid ? (row * params.matrices + matrix) * neurons + neuron : 0;

  const float* prepacked = params.prepacked + matrix * neurons * padded;
  const float* weight;
  int pitch;
  if constexpr (shared) {
    float* copy = reinterpret_cast<float*>(memory);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int from = static_cast<int>(threadIdx.x) / kWarp; from < neurons;
         from += static_cast<int>(blockDim.x) / kWarp)
      for (int to = lane; to < neurons; to += kWarp)
        copy[from * neurons + to] = prepacked[from * padded + to];
    weight = copy + (valid ? neuron : 0);
    pitch = neurons;
    lists += matrix_bytes(neurons, neurons);
  } else {
    weight = prepacked + (valid ? neuron : 0);
    pitch = padded;
  }

  const NeuronCoefficients c = coefficients_at(params.coefficients, n);
  const bool synapse = params.i.data != nullptr, biased = params.bias != nullptr;
  const float bias = biased && valid ? params.bias[matrix * neurons + neuron] : 0.0f;
  NeuronState state{0.0f, 0.0f};
  Inputs<branches> inputs[kAhead];
  float spikes = 0.0f;
  char *output = nullptr, *trace_v = nullptr, *trace_i = nullptr, *trace_recurrent = nullptr;
  if (valid) {
    state.v = read_neuron(params.v, n);
    if (synapse) state.i = read_neuron(params.i, n);
    spikes = read_neuron(params.previous, n);
    output = address_of(params.output, n);
    trace_v = address_of(params.trace_v, n);
    trace_i = address_of(params.trace_i, n);
    trace_recurrent = address_of(params.trace_recurrent, n);
    inputs[0].locate(params, n);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (k > 0) inputs[k] = inputs[0];
      if (k < params.steps) inputs[k].load_step(params, k);
    }
  }
  SampleSpikes previous(lists + group * spikes_bytes(neurons), neurons, neuron, plan.threads);
  previous.build(spikes);
  bool ones = false;  // the initial spikes may have any value
  for (std::int64_t first = 0; first < params.steps; first += kAhead) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const std::int64_t step = first + k;
      if (step >= params.steps) break;
      float current = previous.template sum<shared ? 1 : 2>(weight, pitch, ones);
      if (biased) current = add(current, bias);
      if (valid) {
        const float x = inputs[k].sum(params, current);
        if (step + kAhead < params.steps) inputs[k].load_step(params, step + kAhead);
        spikes = update_as(Kind(), params.kind, x, c, state);
        write_step(params.output, output, step, spikes);
        if (trace_v != nullptr) trace_step(params.trace_v, trace_v, step, state.v);
        if (trace_i != nullptr) trace_step(params.trace_i, trace_i, step, state.i);
        if (trace_recurrent != nullptr) trace_step(params.trace_recurrent, trace_recurrent, step, current);
      }
      ones = emits_ones(params.kind);
      previous.build(spikes);
    }
  }
  if (!valid) return;
  trace_step(params.v, address_of(params.v, n), 0, state.v);
  if (synapse) trace_step(params.i, address_of(params.i, n), 0, state.i);
  write_step(params.previous, address_of(params.previous, n), 0, spikes);
}

}  // namespace neurocuda::cuda
