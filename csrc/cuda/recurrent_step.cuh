// One time step of a recurrent neuron, shared by the recurrent kernels.
#pragma once

#include <cstdint>

#include "cuda/coefficients.cuh"
#include "cuda/device.cuh"
#include "cuda/dispatch.cuh"
#include "cuda/signal.cuh"
#include "neuron_update.h"
#include "params/recurrent_neuron.h"

namespace neurocuda::cuda {

// One time step of a neuron whose kind is known at compile time.
template <Synapse synapse, Fires fires, Reset reset>
__device__ __forceinline__ float update_as(KindOf<synapse, fires, reset>, const NeuronKind&, float x,
                                           const NeuronCoefficients& c, NeuronState& state) {
  float u;
  return update_neuron<synapse, fires, reset>(x, c, state, u);
}

// Kinds that are dispatched at run time in every step.
struct AnyKind {};

// Kinds that are general(), which are dispatched in every step too.
struct AnyGeneralKind {};

__device__ __forceinline__ float update_as(AnyGeneralKind, const NeuronKind& kind, float x,
                                           const NeuronCoefficients& c, NeuronState& state) {
  float u;
  return update_general(GeneralKind(kind), x, c, state, u);
}

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

// Whether every spike is one: then weights are added without a product, with the same bits.
__device__ __forceinline__ bool emits_ones(const NeuronKind& kind) {
  return kind.fires == Fires::kAbove || kind.fires == Fires::kReaching;
}

// Neuron n of the first time step.
__device__ __forceinline__ float read_neuron(const Signal& signal, std::int64_t n) {
  Raw<1> raw;
  load<1>(signal.type, address_of(signal, n), raw);
  float value[1];
  convert<1>(signal.type, raw, false, value);
  return value[0];
}

// Stores a value of a neuron, whose address in the first time step is `first`.
__device__ __forceinline__ void write_step(const Signal& signal, char* first, std::int64_t step,
                                           float value) {
  const float values[1] = {value};
  store<1>(signal.type, values, first + step * signal.time_stride);
}

// The same for a float32 signal.
__device__ __forceinline__ void trace_step(const Signal& signal, char* first, std::int64_t step,
                                           float value) {
  *reinterpret_cast<float*>(first + step * signal.time_stride) = value;
}

// The inputs of a neuron in one time step, from up to `most` branches, and their addresses in the first step.
template <int most>
struct Inputs {
  const char* from[most];
  Raw<1> raw[most] = {};

  __device__ __forceinline__ void locate(const RecurrentParams& params, std::int64_t n) {
#pragma unroll
    for (int branch = 0; branch < most; ++branch)
      from[branch] = branch < params.branch_count ? address_of(params.branches[branch], n) : nullptr;
  }
  __device__ __forceinline__ void load_step(const RecurrentParams& params, std::int64_t step) {
#pragma unroll
    for (int branch = 0; branch < most; ++branch) {
      if (branch >= params.branch_count) break;
      const Signal& signal = params.branches[branch];
      load<1>(signal.type, from[branch] + step * signal.time_stride, raw[branch]);
    }
  }
  // The sum over branches, with the recurrent current inserted before branch params.place: a left fold.
  __device__ __forceinline__ float sum(const RecurrentParams& params, float current) const {
    float total[1] = {current};
    if (params.place > 0) {
#pragma unroll
      for (int branch = 0; branch < most; ++branch)
        if (branch < params.place) convert<1>(params.branches[branch].type, raw[branch], branch > 0, total);
      total[0] = add(total[0], current);
    }
#pragma unroll
    for (int branch = 0; branch < most; ++branch) {
      if (branch >= params.place && branch < params.branch_count)
        convert<1>(params.branches[branch].type, raw[branch], true, total);
    }
    return total[0];
  }
};

}  // namespace neurocuda::cuda
