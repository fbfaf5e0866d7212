// A block runs samples over all steps: a thread for each neuron, whose state stays in registers; the weight
// in shared memory, or where it lies.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/recurrent_plan.cuh"
#include "cuda/recurrent_step.cuh"
#include "cuda/spike_list.cuh"

namespace neurocuda::cuda {

// The neurons of a sample that spiked in the step before, ascending, in shared memory; all threads of the
// block build theirs together.
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
    const unsigned mask = __ballot_sync(kWholeWarp, spikes != 0.0f);
    if (lane == 0) masks_[warp] = mask;
    __syncthreads();  // and the list before is read no more
    int place = __popc(mask & below(lane));
    count_ = 0;
#pragma unroll 4
    for (int w = 0; w < warps_; ++w) {
      const int found = __popc(masks_[w]);
      place += w < warp ? found : 0;
      count_ += found;
    }
    if (spikes != 0.0f) {
      neurons_[place / 4].at[place % 4] = static_cast<std::uint16_t>(thread_);
      values_[place / 4].at[place % 4] = spikes;
    }
    __syncthreads();
  }

  // The sum of their rows of a matrix, from zero: `weight` is the element of this thread's column in row 0.
  // Several quads of rows are on their way at once.
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
    for (; quad * 4 < count_; ++quad) {  // what there is not adds zero, which changes nothing
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

// Loads that are on their way while steps are computed: with one branch those of four steps, with more one.
template <int branches>
constexpr int kStepsAhead = branches == 1 ? 4 : 1;

template <class Kind, int branches, bool shared>
__global__ void __launch_bounds__(kMostThreads, 1)
    recurrent_resident(const RecurrentParams call, const RecurrentPlan plan) {
  NEUROCUDA_DYNAMIC_SHARED(unsigned char, memory);
  unsigned char* own = memory;  // for spikes
  constexpr int kAhead = kStepsAhead<branches>;
  const int neurons = static_cast<int>(call.neurons), padded = static_cast<int>(padded_features(neurons));
  const int group = static_cast<int>(threadIdx.x) / plan.threads;
  const int neuron = static_cast<int>(threadIdx.x) % plan.threads;
  const std::int64_t rows = call.samples / call.matrices;
  const std::int64_t tiles = (rows + plan.samples - 1) / plan.samples;
  const std::int64_t matrix = blockIdx.x / tiles, row = blockIdx.x % tiles * plan.samples + group;
  const bool there = row < rows && neuron < neurons;
  const std::int64_t n = there ? (row * call.matrices + matrix) * neurons + neuron : 0;

  const float* packed = call.packed + matrix * neurons * padded;
  const float* weight;
  int pitch;
  if constexpr (shared) {
    float* copy = reinterpret_cast<float*>(memory);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int from = static_cast<int>(threadIdx.x) / kWarp; from < neurons;
         from += static_cast<int>(blockDim.x) / kWarp)
      for (int to = lane; to < neurons; to += kWarp) copy[from * neurons + to] = packed[from * padded + to];
    weight = copy + (there ? neuron : 0);
    pitch = neurons;
    own += matrix_bytes(neurons, neurons);
  } else {
    weight = packed + (there ? neuron : 0);
    pitch = padded;
  }

  const NeuronCoefficients c = coefficients_at(call.coefficients, n);
  const bool synapse = call.i.data != nullptr, biased = call.bias != nullptr;
  const float bias = biased && there ? call.bias[matrix * neurons + neuron] : 0.0f;
  NeuronState state{0.0f, 0.0f};
  Inputs<branches> inputs[kAhead];
  float spikes = 0.0f;
  char *output = nullptr, *trace_v = nullptr, *trace_i = nullptr, *trace_recurrent = nullptr;
  if (there) {
    state.v = read_neuron(call.v, n);
    if (synapse) state.i = read_neuron(call.i, n);
    spikes = read_neuron(call.previous, n);
    output = place_of(call.output, n);
    trace_v = place_of(call.trace_v, n);
    trace_i = place_of(call.trace_i, n);
    trace_recurrent = place_of(call.trace_recurrent, n);
    inputs[0].find(call, n);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (k > 0) inputs[k] = inputs[0];
      if (k < call.steps) inputs[k].bring(call, k);
    }
  }
  SampleSpikes before(own + group * spikes_bytes(neurons), neurons, neuron, plan.threads);
  before.build(spikes);
  bool ones = false;  // the first spikes may have any value
  for (std::int64_t first = 0; first < call.steps; first += kAhead) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const std::int64_t step = first + k;
      if (step >= call.steps) break;
      float current = before.template sum<shared ? 1 : 2>(weight, pitch, ones);
      if (biased) current = add(current, bias);
      if (there) {
        const float x = inputs[k].sum(call, current);
        if (step + kAhead < call.steps) inputs[k].bring(call, step + kAhead);
        spikes = update_as(Kind(), call.kind, x, c, state);
        write_step(call.output, output, step, spikes);
        if (trace_v != nullptr) trace_step(call.trace_v, trace_v, step, state.v);
        if (trace_i != nullptr) trace_step(call.trace_i, trace_i, step, state.i);
        if (trace_recurrent != nullptr) trace_step(call.trace_recurrent, trace_recurrent, step, current);
      }
      ones = emits_ones(call.kind);
      before.build(spikes);
    }
  }
  if (!there) return;
  trace_step(call.v, place_of(call.v, n), 0, state.v);
  if (synapse) trace_step(call.i, place_of(call.i, n), 0, state.i);
  write_step(call.previous, place_of(call.previous, n), 0, spikes);
}

}  // namespace neurocuda::cuda
