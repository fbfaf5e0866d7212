// The update of one neuron in one time step, for host and device: the only definition of its arithmetic.
//
//   i = i * decay_i + x * gain_i                  neurons with a synapse; otherwise i = x
//   u = v * decay_v + (i * gain_v + bias_v)
//   s = u > threshold                             or >=; many: max(0, floor(u / threshold))
//   v = s ? v_reset : u                           or u - s * threshold
//
// With Reset::kFeedback (a soft reset as NIR writes it) v = u and i = s: the spikes become the synaptic
// current.
//
// float32. Every operation is rounded separately: host code is compiled with -ffp-contract=off, device code
// uses the __f*_rn intrinsics. The results have the same bits as those of neurocuda/ops/reference.py.
#pragma once

#include <cmath>

#include "host_device.h"

namespace neurocuda {

enum class Synapse { kNone, kUpdated, kPrevious };      // previous: u uses the current before the update
enum class Fires { kNever, kAbove, kReaching, kMany };  // never: the membrane potential is the output
// feedback: only with Synapse::kUpdated
enum class Reset { kToValue, kSubtract, kFeedback };

// Whether neurons with this synapse and firing may have Reset::kFeedback.
template <Synapse synapse, Fires fires>
constexpr bool may_feed_back =
    synapse == Synapse::kUpdated && (fires == Fires::kAbove || fires == Fires::kReaching);

struct NeuronKind {
  Synapse synapse;
  Fires fires;
  Reset reset;
};

struct NeuronCoefficients {
  float decay_v, gain_v, bias_v, decay_i, gain_i, threshold, v_reset;
};

struct NeuronState {
  float v, i;
};

#if defined(__CUDA_ARCH__)
NEUROCUDA_HOST_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
NEUROCUDA_HOST_DEVICE float subtract(float a, float b) { return __fsub_rn(a, b); }
NEUROCUDA_HOST_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
NEUROCUDA_HOST_DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
#else
NEUROCUDA_HOST_DEVICE float add(float a, float b) { return a + b; }
NEUROCUDA_HOST_DEVICE float subtract(float a, float b) { return a - b; }
NEUROCUDA_HOST_DEVICE float multiply(float a, float b) { return a * b; }
NEUROCUDA_HOST_DEVICE float divide(float a, float b) { return a / b; }
#endif

// The spike count at membrane potential u, before the reset. With Fires::kMany, NaN stays NaN.
template <Fires fires>
NEUROCUDA_HOST_DEVICE float spikes_of(float u, float threshold) {
  if (fires == Fires::kMany) {
    const float count = floorf(divide(u, threshold));
    return count < 0.0f ? 0.0f : count;
  }
  if (fires == Fires::kReaching) return u >= threshold ? 1.0f : 0.0f;
  return u > threshold ? 1.0f : 0.0f;
}

// The synaptic current after the update.
NEUROCUDA_HOST_DEVICE float updated_current(float x, float i, const NeuronCoefficients& c) {
  return add(multiply(i, c.decay_i), multiply(x, c.gain_i));
}

// The membrane potential before the reset.
NEUROCUDA_HOST_DEVICE float updated_potential(float v, float current, const NeuronCoefficients& c) {
  return add(multiply(v, c.decay_v), add(multiply(current, c.gain_v), c.bias_v));
}

// The membrane potential after the reset. kFeedback leaves it unchanged.
template <Reset reset>
NEUROCUDA_HOST_DEVICE float after_reset(float u, float spikes, const NeuronCoefficients& c) {
  if (reset == Reset::kFeedback) return u;
  if (reset == Reset::kSubtract) return subtract(u, multiply(spikes, c.threshold));
  return spikes > 0.0f ? c.v_reset : u;
}

// One time step: updates `state`, returns the output (spikes, or the membrane potential with Fires::kNever)
// and stores the membrane potential before the reset in `u`.
template <Synapse synapse, Fires fires, Reset reset>
NEUROCUDA_HOST_DEVICE float update_neuron(float x, const NeuronCoefficients& c, NeuronState& state,
                                          float& u) {
  float current = x;
  if (synapse != Synapse::kNone) {
    const float after = updated_current(x, state.i, c);
    current = synapse == Synapse::kUpdated ? after : state.i;
    state.i = after;
  }
  u = updated_potential(state.v, current, c);
  if (fires == Fires::kNever) {
    state.v = u;
    return u;
  }
  const float spikes = spikes_of<fires>(u, c.threshold);
  state.v = after_reset<reset>(u, spikes, c);
  if (reset == Reset::kFeedback) state.i = spikes;
  return spikes;
}

}  // namespace neurocuda
