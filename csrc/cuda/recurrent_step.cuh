// One step of a recurrent neuron, as the kernels share it.
#pragma once

#include <cstdint>

#include "cuda/coefficients.cuh"
#include "cuda/device.cuh"
#include "cuda/dispatch.cuh"
#include "cuda/signal.cuh"
#include "neuron_update.h"
#include "params/recurrent_neuron.h"

namespace neurocuda::cuda {

// One step of a neuron of a kind that the compiler knows.
template <Synapse synapse, Fires fires, Reset reset>
__device__ __forceinline__ float update_as(KindOf<synapse, fires, reset>, const NeuronKind&, float x,
                                           const NeuronCoefficients& c, NeuronState& state) {
  float u;
  return update_neuron<synapse, fires, reset>(x, c, state, u);
}

// One of a kind that is looked up in every step.
struct AnyKind {};

template <Synapse synapse, Fires fires>
__device__ __forceinline__ float update_as(const NeuronKind& kind, float x, const NeuronCoefficients& c,
                                           NeuronState& state) {
  float u;
  return fires == Fires::kNever || kind.reset == Reset::kToValue
             ? update_neuron<synapse, fires, Reset::kToValue>(x, c, state, u)
             : update_neuron<synapse, fires, Reset::kSubtract>(x, c, state, u);
}

template <Synapse synapse>
__device__ __forceinline__ float update_as(const NeuronKind& kind, float x, const NeuronCoefficients& c,
                                           NeuronState& state) {
  switch (kind.fires) {
    case Fires::kNever:
      return update_as<synapse, Fires::kNever>(kind, x, c, state);
    case Fires::kAbove:
      return update_as<synapse, Fires::kAbove>(kind, x, c, state);
    case Fires::kReaching:
      return update_as<synapse, Fires::kReaching>(kind, x, c, state);
    default:
      return update_as<synapse, Fires::kMany>(kind, x, c, state);
  }
}

__device__ __forceinline__ float update_as(AnyKind, const NeuronKind& kind, float x,
                                           const NeuronCoefficients& c, NeuronState& state) {
  switch (kind.synapse) {
    case Synapse::kNone:
      return update_as<Synapse::kNone>(kind, x, c, state);
    case Synapse::kUpdated:
      return update_as<Synapse::kUpdated>(kind, x, c, state);
    default:
      return update_as<Synapse::kPrevious>(kind, x, c, state);
  }
}

// Whether all that spikes emits one: then nothing is multiplied, as times one is exact.
__device__ __forceinline__ bool emits_ones(const NeuronKind& kind) {
  return kind.fires == Fires::kAbove || kind.fires == Fires::kReaching;
}

__device__ __forceinline__ NeuronCoefficients coefficients_at(const Coefficient* all, std::int64_t n) {
  float values[kCoefficients] = {};
#pragma unroll
  for (int name = 0; name < kCoefficients; ++name) {
    if (all[name].values == nullptr) continue;
    read_coefficient<1>(all[name], n, [&](int, float value) { values[name] = value; });
  }
  return {values[kDecayV], values[kGainV],     values[kBiasV], values[kDecayI],
          values[kGainI],  values[kThreshold], values[kVReset]};
}

// Where neuron n of a signal's first step lies; null where there is no signal.
__device__ __forceinline__ char* place_of(const Signal& signal, std::int64_t n) {
  return signal.data == nullptr ? nullptr : signal.data + offset_of(signal, n);
}

__device__ __forceinline__ float read_neuron(const Signal& signal, std::int64_t n) {
  Raw<1> raw;
  load<1>(signal.type, place_of(signal, n), raw);
  float value[1];
  take<1>(signal.type, raw, false, value);
  return value[0];
}

// A value of a neuron that lies at `place` in the first step.
__device__ __forceinline__ void write_step(const Signal& signal, char* place, std::int64_t step,
                                           float value) {
  const float values[1] = {value};
  store<1>(signal.type, values, place + step * signal.time_stride);
}

// The same of a float32 signal.
__device__ __forceinline__ void trace_step(const Signal& signal, char* place, std::int64_t step,
                                           float value) {
  *reinterpret_cast<float*>(place + step * signal.time_stride) = value;
}

// The inputs of a neuron in one step, and where they lie.
template <int most>
struct Inputs {
  const char* from[most];
  Raw<1> raw[most] = {};

  __device__ __forceinline__ void find(const RecurrentParams& call, std::int64_t n) {
#pragma unroll
    for (int branch = 0; branch < most; ++branch)
      from[branch] = branch < call.branch_count ? place_of(call.branches[branch], n) : nullptr;
  }
  __device__ __forceinline__ void bring(const RecurrentParams& call, std::int64_t step) {
#pragma unroll
    for (int branch = 0; branch < most; ++branch) {
      if (branch >= call.branch_count) break;
      const Signal& signal = call.branches[branch];
      load<1>(signal.type, from[branch] + step * signal.time_stride, raw[branch]);
    }
  }
  // Their sum with the recurrent current in its place, left fold.
  __device__ __forceinline__ float sum(const RecurrentParams& call, float current) const {
    float total[1] = {current};
    if (call.place > 0) {
#pragma unroll
      for (int branch = 0; branch < most; ++branch)
        if (branch < call.place) take<1>(call.branches[branch].type, raw[branch], branch > 0, total);
      total[0] = add(total[0], current);
    }
#pragma unroll
    for (int branch = 0; branch < most; ++branch) {
      if (branch >= call.place && branch < call.branch_count)
        take<1>(call.branches[branch].type, raw[branch], true, total);
    }
    return total[0];
  }
};

}  // namespace neurocuda::cuda
