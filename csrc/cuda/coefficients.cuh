// Reads the coefficients of neurons into registers.
#pragma once

#include "cuda/device.cuh"
#include "params/coefficients.h"

namespace neurocuda::cuda {

// Calls set(k, value) for the coefficient of neuron `neuron` + k, k < width. Only the first index takes a
// division.
template <int width, class Set>
__device__ __forceinline__ void read_coefficient(const Coefficient& c, std::int64_t neuron, const Set& set) {
  std::int64_t index = 0, rest = 0;  // `rest` neurons before the first have the same value
  if (c.count > 1) {
    if ((neuron | c.inner | c.count) >> 31 == 0) {  // a 32-bit division takes a quarter of the time
      const auto n = static_cast<std::uint32_t>(neuron), inner = static_cast<std::uint32_t>(c.inner);
      rest = n % inner;
      index = n / inner % static_cast<std::uint32_t>(c.count);
    } else {
      rest = neuron % c.inner;
      index = neuron / c.inner % c.count;
    }
  }
#pragma unroll
  for (int k = 0; k < width; ++k) {
    set(k, c.values[index]);
    if (++rest < c.inner) continue;
    rest = 0;
    if (++index == c.count) index = 0;
  }
}

// The coefficients that the kind uses, of `width` neighbouring neurons; the others are zero.
template <Synapse synapse, Fires fires, Reset reset, int width>
__device__ __forceinline__ void coefficients_of(const Coefficient* c, std::int64_t neuron,
                                                NeuronCoefficients (&to)[width]) {
#pragma unroll
  for (int k = 0; k < width; ++k) to[k] = {};
  read_coefficient<width>(c[kDecayV], neuron, [&](int k, float value) { to[k].decay_v = value; });
  read_coefficient<width>(c[kGainV], neuron, [&](int k, float value) { to[k].gain_v = value; });
  read_coefficient<width>(c[kBiasV], neuron, [&](int k, float value) { to[k].bias_v = value; });
  if constexpr (synapse != Synapse::kNone) {
    read_coefficient<width>(c[kDecayI], neuron, [&](int k, float value) { to[k].decay_i = value; });
    read_coefficient<width>(c[kGainI], neuron, [&](int k, float value) { to[k].gain_i = value; });
  }
  if constexpr (fires != Fires::kNever) {
    read_coefficient<width>(c[kThreshold], neuron, [&](int k, float value) { to[k].threshold = value; });
    if constexpr (reset == Reset::kToValue) {
      read_coefficient<width>(c[kVReset], neuron, [&](int k, float value) { to[k].v_reset = value; });
    }
  }
}

// All coefficients of neuron n; those that its kind does not have are zero.
__device__ __forceinline__ NeuronCoefficients coefficients_at(const Coefficient* all, std::int64_t n) {
  float values[kCoefficients] = {};
#pragma unroll
  for (int name = 0; name < kCoefficients; ++name) {
    if (all[name].values == nullptr) continue;
    read_coefficient<1>(all[name], n, [&](int, float value) { values[name] = value; });
  }
  return {values[kDecayV], values[kGainV],     values[kBiasV],  values[kDecayI],
          values[kGainI],  values[kThreshold], values[kVReset], values[kVMin]};
}

}  // namespace neurocuda::cuda
