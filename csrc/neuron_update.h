// The update of one neuron in one time step, for host and device: the only definition of its arithmetic.
//
//   i = i * decay_i + x * gain_i                  neurons with a synapse; otherwise i = x
//   u = v * decay_v + (i * gain_v + bias_v)
//   s = u > threshold                             or >=; many: max(0, floor(u / threshold))
//   v = s ? v_reset : u                           or u - s * threshold
//   v = v < v_min ? v_min : v                     neurons with a lower bound
//
// A late reset takes effect in the next step, and v keeps the membrane potential before it:
//
//   s0 = spikes of v                              of the step before, by the same rule as s
//   v0 = s0 ? v_reset : v                         Reset::kToValue: before the decay
//   u = v0 * decay_v + (i * gain_v + bias_v)
//   u = u - s0 * threshold                        Reset::kSubtract: after the decay
//   s = spikes of u
//   v = u < v_min ? v_min : u
//
// With Reset::kFeedback (a soft reset as NIR writes it) v = u and i = s: the spikes become the synaptic
// current.
//
// float32. Every operation is rounded separately: host code is compiled with -ffp-contract=off, device code
// uses the __f*_rn intrinsics. The results have the same bits as those of neurocuda/ops/reference.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

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
  bool late = false;     // the reset takes effect in the next step: one spike per step, no kFeedback
  bool bounded = false;  // v is at least v_min

  // Whether only update_general computes it: rare, so no kernel is compiled for each such kind.
  NEUROCUDA_HOST_DEVICE bool general() const { return late || bounded; }
};

struct NeuronCoefficients {
  float decay_v, gain_v, bias_v, decay_i, gain_i, threshold, v_reset, v_min;
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

// All bits, or none.
using Choice = std::uint32_t;

NEUROCUDA_HOST_DEVICE Choice choice(bool yes) { return yes ? ~Choice{0} : Choice{0}; }

// `yes` or `no`, by a choice that is the same for all neurons: with a bool, loops over neurons do not
// vectorize.
NEUROCUDA_HOST_DEVICE float select(Choice choice, float yes, float no) {
  std::uint32_t bits[2];
  std::memcpy(&bits[0], &yes, sizeof(yes));
  std::memcpy(&bits[1], &no, sizeof(no));
  const std::uint32_t selected = (bits[0] & choice) | (bits[1] & ~choice);
  float result;
  std::memcpy(&result, &selected, sizeof(result));
  return result;
}

// The kind of neurons that fire, for update_general and its gradient.
struct GeneralKind {
  Choice synapse, previous, reaching, many;
  Choice bounded;
  Choice subtracts, replaces;                  // u after the spikes of this step
  Choice late, late_subtracts, late_replaces;  // u and v after the spikes of the step before

  NEUROCUDA_HOST_DEVICE explicit GeneralKind(const NeuronKind& kind)
      : synapse(choice(kind.synapse != Synapse::kNone)),
        previous(choice(kind.synapse == Synapse::kPrevious)),
        reaching(choice(kind.fires == Fires::kReaching)),
        many(choice(kind.fires == Fires::kMany)),
        bounded(choice(kind.bounded)),
        subtracts(choice(!kind.late && kind.reset == Reset::kSubtract)),
        replaces(choice(!kind.late && kind.reset == Reset::kToValue)),
        late(choice(kind.late)),
        late_subtracts(choice(kind.late && kind.reset == Reset::kSubtract)),
        late_replaces(choice(kind.late && kind.reset == Reset::kToValue)) {}
};

NEUROCUDA_HOST_DEVICE float spikes_of(const GeneralKind& kind, float u, float threshold) {
  const float one = select(kind.reaching, spikes_of<Fires::kReaching>(u, threshold),
                           spikes_of<Fires::kAbove>(u, threshold));
  return select(kind.many, spikes_of<Fires::kMany>(u, threshold), one);
}

// The spikes of the step before whose reset is still to come, from the state v before the step.
NEUROCUDA_HOST_DEVICE float late_spikes(const GeneralKind& kind, float v, const NeuronCoefficients& c) {
  return select(kind.late, spikes_of(kind, v, c.threshold), 0.0f);
}

// The membrane potential that decays, from the state v before the step.
NEUROCUDA_HOST_DEVICE float decaying_potential(const GeneralKind& kind, float v, float late,
                                               const NeuronCoefficients& c) {
  return select(kind.late_replaces, after_reset<Reset::kToValue>(v, late, c), v);
}

// The membrane potential after the reset in its own step; a late reset leaves it unchanged.
NEUROCUDA_HOST_DEVICE float after_reset(const GeneralKind& kind, float u, float spikes,
                                        const NeuronCoefficients& c) {
  const float replaced = select(kind.replaces, after_reset<Reset::kToValue>(u, spikes, c), u);
  return select(kind.subtracts, after_reset<Reset::kSubtract>(u, spikes, c), replaced);
}

// As update_neuron, of a kind that is known at run time, and with a late reset or a lower bound. The neuron
// fires and has no Reset::kFeedback.
NEUROCUDA_HOST_DEVICE float update_general(const GeneralKind& kind, float x, const NeuronCoefficients& c,
                                           NeuronState& state, float& u) {
  const float after = select(kind.synapse, updated_current(x, state.i, c), 0.0f);
  const float current = select(kind.synapse, select(kind.previous, state.i, after), x);
  state.i = after;
  const float late = late_spikes(kind, state.v, c);
  u = updated_potential(decaying_potential(kind, state.v, late, c), current, c);
  u = select(kind.late_subtracts, after_reset<Reset::kSubtract>(u, late, c), u);
  const float spikes = spikes_of(kind, u, c.threshold), v = after_reset(kind, u, spikes, c);
  state.v = select(kind.bounded, v < c.v_min ? c.v_min : v, v);
  return spikes;
}

}  // namespace neurocuda
