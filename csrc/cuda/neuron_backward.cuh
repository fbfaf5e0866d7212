// The gradients of a population over time: a thread has one neuron and runs it forward, then backward, in
// segments of kBackwardSegment time steps that are kept in shared memory.
//
// Memory traffic. The backward pass needs the membrane potential u before every reset: it is either stored or
// recomputed from the branches. Bytes per neuron and step beyond the forward pass of inference, for R bytes
// of branches and gradients of 4 bytes in and out:
//
//                                                    one branch in float32   in fp16   two in float32
//   the forward pass stores u        4 + 4 + 8                16                16           16
//   the backward pass stores u       R + 4 + 4 + 8            20                18           24
//   recomputed twice, by segments    2R + 8 + 2S              16.5              12.5         24.5
//   recomputed once, one segment     R + 8                    12                10           16
//
// where S = 4 bytes / kBackwardSegment is the state at the start of a segment (twice that with a synapse).
// The last two are implemented: the forward pass is that of inference and stores nothing as large as a
// signal, and up to kBackwardSegment steps, as in most training, move the fewest bytes possible.
#pragma once

#include <cstdint>

#include "cuda/coefficients.cuh"
#include "cuda/device.cuh"
#include "cuda/signal.cuh"
#include "neuron_update.h"
#include "params/neuron_backward.h"

namespace neurocuda::cuda {

constexpr int kBackwardThreads = 128;  // per block

// Minimum resident blocks per multiprocessor: 5 blocks with 8 loads of 4 bytes per thread have 20 KB in
// flight. An H100 needs 3.35 TB/s * 0.6 us / 132 = 15 KB.
constexpr int kBackwardBlocks = 5;

// How many spikes a neuron emits in a time step, at most. kGeneral: one or many, of kinds that are general(),
// whose synapse is chosen at run time too.
enum class Emits { kNone, kOne, kMany, kGeneral };

template <Emits emits>
__device__ __forceinline__ float spikes_as(Fires fires, float u, float threshold) {
  if (emits == Emits::kMany) return spikes_of<Fires::kMany>(u, threshold);
  return fires == Fires::kReaching ? spikes_of<Fires::kReaching>(u, threshold)
                                   : spikes_of<Fires::kAbove>(u, threshold);
}

// One time step forward; updates `state` and returns the membrane potential before the reset.
template <Synapse synapse, Emits emits>
__device__ __forceinline__ float step_forward(const NeuronKind& kind, float x, const NeuronCoefficients& c,
                                              NeuronState& state) {
  if (emits == Emits::kGeneral) {
    float u;
    update_general(GeneralKind(kind), x, c, state, u);
    return u;
  }
  float current = x;
  if (synapse != Synapse::kNone) {
    const float after = updated_current(x, state.i, c);
    current = synapse == Synapse::kUpdated ? after : state.i;
    state.i = after;
  }
  const float u = updated_potential(state.v, current, c);
  if (emits == Emits::kNone) {
    state.v = u;
  } else {
    const float spikes = spikes_as<emits>(kind.fires, u, c.threshold);
    state.v = kind.reset == Reset::kToValue ? after_reset<Reset::kToValue>(u, spikes, c)
                                            : after_reset<Reset::kSubtract>(u, spikes, c);
  }
  return u;
}

// The surrogate derivative of a spike at a distance from the threshold.
__device__ __forceinline__ float derivative(Surrogate surrogate, float distance, float scale) {
  const float scaled = multiply(scale, surrogate == Surrogate::kArctan ? distance : fabsf(distance));
  if (surrogate == Surrogate::kTriangle) {
    const float height = subtract(1.0f, scaled);
    return height < 0.0f ? 0.0f : height;
  }
  const float root = surrogate == Surrogate::kArctan ? scaled : add(1.0f, scaled);
  const float square = multiply(root, root);
  return divide(1.0f, surrogate == Surrogate::kArctan ? add(1.0f, square) : square);
}

// The surrogate derivative of the spikes at membrane potential u: at the nearest multiple of the threshold if
// a neuron may emit many.
template <Emits emits>
__device__ __forceinline__ float slope_of(const NeuronBackwardParams& params, float u, float threshold) {
  float nearest = threshold;
  if (emits == Emits::kMany) {
    const float multiple = nearbyintf(divide(u, threshold));
    nearest = multiply(threshold, multiple < 1.0f ? 1.0f : multiple);
  }
  return derivative(params.surrogate, subtract(u, nearest), params.scale);
}

// A time step for the backward pass: the input, the state before it, the membrane potential before the reset,
// and the gradients of its output and of its recorded state.
struct BackwardStep {
  float x, v, i, u, of_output, of_v, of_i;
  bool last;
};

// Gradients carried backward: of the state after a time step, replaced by those of the state before it;
// `current`: of i through u, with Synapse::kPrevious; and of the coefficients, summed over time, if `sums`.
template <bool sums>
struct Gradients {
  float v, i, current;
  float coefficients[sums ? kCoefficients : 1];
};

// One time step backward, the reverse of step_forward; returns the gradient of the input. Sums have the order
// of autograd's.
template <Synapse synapse, Emits emits, bool sums>
__device__ __forceinline__ float step_backward(const NeuronBackwardParams& params,
                                               const NeuronCoefficients& c, const BackwardStep& at,
                                               Gradients<sums>& to) {
  float du;  // of the membrane potential before the reset
  if (emits == Emits::kNone) {
    du = add(add(at.of_v, at.last ? to.v : at.of_output), at.last ? at.of_output : to.v);
  } else {
    const float dv = add(at.of_v, to.v);                    // of the potential after it
    const bool arrives = params.of_output.data != nullptr;  // 0 * NaN is not 0
    const float slope = arrives ? multiply(at.of_output, slope_of<emits>(params, at.u, c.threshold)) : 0.0f;
    const float spikes = spikes_as<emits>(params.kind.fires, at.u, c.threshold);
    if (params.kind.reset == Reset::kToValue) {
      const bool fired = spikes > 0.0f;
      du = add(slope, fired ? 0.0f : dv);
      if (sums) to.coefficients[kVReset] = add(to.coefficients[kVReset], fired ? dv : 0.0f);
    } else {
      du = add(slope, dv);
      if (sums) to.coefficients[kThreshold] = add(to.coefficients[kThreshold], multiply(-dv, spikes));
    }
    if (sums) to.coefficients[kThreshold] = add(to.coefficients[kThreshold], -slope);
  }
  const float through_u = multiply(du, c.gain_v);
  float current = at.x, dx = through_u;
  if (synapse != Synapse::kNone) {
    float di;  // of the current after the update
    if (synapse == Synapse::kUpdated) {
      if (sums) current = updated_current(at.x, at.i, c);
      di = add(add(at.of_i, to.i), through_u);
    } else {
      if (sums) current = at.i;
      di = add(add(at.of_i, to.current), to.i);
      to.current = through_u;
    }
    if (sums) to.coefficients[kDecayI] = add(to.coefficients[kDecayI], multiply(di, at.i));
    if (sums) to.coefficients[kGainI] = add(to.coefficients[kGainI], multiply(di, at.x));
    dx = multiply(di, c.gain_i);
    to.i = multiply(di, c.decay_i);
  }
  if (sums) to.coefficients[kDecayV] = add(to.coefficients[kDecayV], multiply(du, at.v));
  if (sums) to.coefficients[kGainV] = add(to.coefficients[kGainV], multiply(du, current));
  if (sums) to.coefficients[kBiasV] = add(to.coefficients[kBiasV], du);
  to.v = multiply(du, c.decay_v);
  return dx;
}

// One time step backward, the reverse of update_general.
__device__ __forceinline__ float step_backward_general(const NeuronBackwardParams& params,
                                                       const NeuronCoefficients& c, const BackwardStep& at,
                                                       Gradients<true>& to) {
  const GeneralKind kind(params.kind);
  float* const sums = to.coefficients;
  float slope = 0.0f;
  if (params.of_output.data != nullptr) {  // 0 * NaN is not 0
    slope = multiply(at.of_output, params.kind.fires == Fires::kMany
                                       ? slope_of<Emits::kMany>(params, at.u, c.threshold)
                                       : slope_of<Emits::kOne>(params, at.u, c.threshold));
  }
  const float spikes = spikes_of(kind, at.u, c.threshold), late = late_spikes(kind, at.v, c);
  const bool below = params.kind.bounded && after_reset(kind, at.u, spikes, c) < c.v_min;
  const float arrived = add(at.of_v, to.v), dv = below ? 0.0f : arrived;  // after the bound, before it
  sums[kVMin] = add(sums[kVMin], below ? arrived : 0.0f);
  const float du = add(slope, select(kind.replaces, spikes > 0.0f ? 0.0f : dv, dv));
  const float through_reset =
      select(kind.subtracts, multiply(-dv, spikes), select(kind.late_subtracts, multiply(-du, late), 0.0f));
  sums[kThreshold] = add(sums[kThreshold], select(kind.late, -slope, through_reset));
  sums[kThreshold] = add(sums[kThreshold], select(kind.late, through_reset, -slope));
  const float to_v = multiply(du, c.decay_v);
  sums[kVReset] = add(sums[kVReset], select(kind.late_replaces, late > 0.0f ? to_v : 0.0f,
                                            select(kind.replaces, spikes > 0.0f ? dv : 0.0f, 0.0f)));
  const float through_u = multiply(du, c.gain_v);
  float current = at.x, dx = through_u;
  if (params.kind.synapse != Synapse::kNone) {
    float di;  // of the current after the update
    if (params.kind.synapse == Synapse::kUpdated) {
      current = updated_current(at.x, at.i, c);
      di = add(add(at.of_i, to.i), through_u);
    } else {
      current = at.i;
      di = add(add(at.of_i, to.current), to.i);
      to.current = through_u;
    }
    sums[kDecayI] = add(sums[kDecayI], multiply(di, at.i));
    sums[kGainI] = add(sums[kGainI], multiply(di, at.x));
    dx = multiply(di, c.gain_i);
    to.i = multiply(di, c.decay_i);
  }
  sums[kDecayV] = add(sums[kDecayV], multiply(du, decaying_potential(kind, at.v, late, c)));
  sums[kGainV] = add(sums[kGainV], multiply(du, current));
  sums[kBiasV] = add(sums[kBiasV], du);
  to.v = select(kind.late_replaces, late > 0.0f ? 0.0f : to_v, to_v);
  return dx;
}

// All coefficients of a neuron; those that its kind does not have are zero. The loop of coefficients.cuh
// takes up to four more registers here.
__device__ __forceinline__ NeuronCoefficients all_coefficients(const Coefficient* all, std::int64_t n) {
  const auto value = [&](int name) {
    float read = 0.0f;
    if (all[name].values != nullptr) read_coefficient<1>(all[name], n, [&](int, float c) { read = c; });
    return read;
  };
  return {value(kDecayV), value(kGainV),     value(kBiasV),  value(kDecayI),
          value(kGainI),  value(kThreshold), value(kVReset), value(kVMin)};
}

// The element of a signal at an address, as float32.
__device__ __forceinline__ float read_element(const Signal& signal, const char* from) {
  Raw<1> raw;
  float value[1];
  load<1>(signal.type, from, raw);
  convert<1>(signal.type, raw, false, value);
  return value[0];
}

// Copies time steps first .. first + count - 1 of the neuron at address `from` (of step 0) to a column of
// shared memory, or adds them to it. Eight loads are in flight at a time.
__device__ __forceinline__ void read_column(const Signal& signal, const char* from, std::int64_t first,
                                            int count, bool accumulate, float* column) {
  constexpr int kInFlight = 8;
  from += first * signal.time_stride;
#pragma unroll 1
  for (int start = 0; start < count; start += kInFlight) {
    Raw<1> raw[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (start + k < count) load<1>(signal.type, from + (start + k) * signal.time_stride, raw[k]);
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (start + k >= count) break;
      float value[1] = {column[(start + k) * kBackwardThreads]};
      convert<1>(signal.type, raw[k], accumulate, value);
      column[(start + k) * kBackwardThreads] = value[0];
    }
  }
}

// Passes over segments: forward over all but the last, which store only the state after each; then backward
// over all segments, each of which is first recomputed forward. A thread keeps a segment in its own columns
// of shared memory: registers would need unrolled loops, which are too long for the instruction caches.
template <Synapse synapse, Emits emits, bool sums>
__global__ void __launch_bounds__(kBackwardThreads, kBackwardBlocks)
    neuron_backward_kernel(const __grid_constant__ NeuronBackwardParams params) {
  constexpr bool kForward = emits != Emits::kNone || sums, kSynapse = synapse != Synapse::kNone;
  constexpr int kSteps = kBackwardSegment, kParts = kSynapse ? 2 : 1;  // of the state
  // The rows of `columns`; u replaces x where x is not needed again.
  constexpr int kOfOutput = 0, kX = kForward ? 1 : 0, kU = sums ? 2 : kX, kV = sums ? 3 : 0;
  constexpr int kI = sums && kSynapse ? 4 : 0, kRows = 1 + (kI > 0 ? kI : kV > 0 ? kV : kX);
  NEUROCUDA_SHARED(float, columns, [kRows][kSteps][kBackwardThreads]);
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kBackwardThreads + threadIdx.x;
  if (n >= params.neurons) return;
  const auto cell = [&](int row, int k) -> float& { return columns[row][k][threadIdx.x]; };
  const auto value = [&](const Signal& signal) {
    return signal.data == nullptr ? 0.0f : read_element(signal, address_of(signal, n));
  };

  const NeuronCoefficients c = all_coefficients(params.coefficients, n);
  const NeuronState start{value(params.v), value(params.i)};
  char *const of_output = address_of(params.of_output, n), *const of_v = address_of(params.of_trace_v, n);
  char *const of_i = address_of(params.of_trace_i, n), *const to_branches = address_of(params.to_branches, n);
  Gradients<sums> to{value(params.of_v), value(params.of_i), 0.0f, {}};
  NeuronState state = start;
  const std::int64_t last = params.steps == 0 ? -1 : (params.steps - 1) / kSteps;
  for (std::int64_t pass = kForward ? 0 : last; pass <= 2 * last; ++pass) {
    const bool backward = pass >= last;
    const std::int64_t segment = backward ? 2 * last - pass : pass, first = segment * kSteps;
    const int count = static_cast<int>(segment < last ? kSteps : params.steps - first);
    if (backward && of_output != nullptr) {
      read_column(params.of_output, of_output, first, count, false, &cell(kOfOutput, 0));
    }
    if (kForward) {
      for (int branch = 0; branch < params.branch_count; ++branch) {
        const Signal& signal = params.branches[branch];
        read_column(signal, signal.data + offset_of(signal, n), first, count, branch > 0, &cell(kX, 0));
      }
      if (segment == 0) {
        state = start;
      } else if (pass > last) {
        const float* saved = params.states + (segment - 1) * kParts * params.neurons + n;
        state.v = saved[0];
        if (kSynapse) state.i = saved[params.neurons];
      }
#pragma unroll 1
      for (int k = 0; k < count; ++k) {
        if (sums) cell(kV, k) = state.v;
        if (sums && kSynapse) cell(kI, k) = state.i;
        const float u = step_forward<synapse, emits>(params.kind, cell(kX, k), c, state);
        if (emits != Emits::kNone) cell(kU, k) = u;
      }
      if (!backward) {
        float* saved = params.states + segment * kParts * params.neurons + n;
        saved[0] = state.v;
        if (kSynapse) saved[params.neurons] = state.i;
        continue;
      }
    }
#pragma unroll 1
    for (int k = count - 1; k >= 0; --k) {
      const std::int64_t step = first + k;
      const auto arriving = [&](const Signal& signal, const char* from) {
        return from == nullptr ? 0.0f : read_element(signal, from + step * signal.time_stride);
      };
      BackwardStep at{};
      if (kForward) at.x = cell(kX, k);
      if (emits != Emits::kNone) at.u = cell(kU, k);
      if (sums) at.v = cell(kV, k);
      if (sums && kSynapse) at.i = cell(kI, k);
      if (of_output != nullptr) at.of_output = cell(kOfOutput, k);
      at.of_v = arriving(params.of_trace_v, of_v);
      at.of_i = arriving(params.of_trace_i, of_i);
      at.last = step == params.steps - 1;
      float dx;
      if constexpr (emits == Emits::kGeneral) {
        dx = step_backward_general(params, c, at, to);
      } else {
        dx = step_backward<synapse, emits, sums>(params, c, at, to);
      }
      if (to_branches != nullptr) {
        *reinterpret_cast<float*>(to_branches + step * params.to_branches.time_stride) = dx;
      }
    }
  }

  const auto write = [&](const Signal& signal, float gradient) {
    if (signal.data != nullptr) *reinterpret_cast<float*>(address_of(signal, n)) = gradient;
  };
  write(params.to_v, to.v);
  write(params.to_i, add(to.i, to.current));
#pragma unroll
  for (int name = 0; sums && name < kCoefficients; ++name)
    write(params.to_coefficients[name], to.coefficients[name]);
}

template <Synapse synapse, Emits emits>
void launch_neuron_backward(const NeuronBackwardParams& params, bool sums, Stream stream) {
  const auto blocks = static_cast<unsigned>((params.neurons + kBackwardThreads - 1) / kBackwardThreads);
  if (sums) {
    NEUROCUDA_LAUNCH((neuron_backward_kernel<synapse, emits, true>), blocks, kBackwardThreads, 0, stream,
                     params);
  } else {
    NEUROCUDA_LAUNCH((neuron_backward_kernel<synapse, emits, false>), blocks, kBackwardThreads, 0, stream,
                     params);
  }
}

// With the rows of a synapse, whether there is one or not.
inline void launch_general_backward(const NeuronBackwardParams& params, Stream stream) {
  const auto blocks = static_cast<unsigned>((params.neurons + kBackwardThreads - 1) / kBackwardThreads);
  NEUROCUDA_LAUNCH((neuron_backward_kernel<Synapse::kUpdated, Emits::kGeneral, true>), blocks,
                   kBackwardThreads, 0, stream, params);
}

template <Synapse synapse>
void launch_neuron_backward(const NeuronBackwardParams& params, bool sums, Stream stream) {
  switch (params.kind.fires) {
    case Fires::kNever:
      return launch_neuron_backward<synapse, Emits::kNone>(params, sums, stream);
    case Fires::kMany:
      return launch_neuron_backward<synapse, Emits::kMany>(params, sums, stream);
    default:
      return launch_neuron_backward<synapse, Emits::kOne>(params, sums, stream);
  }
}

}  // namespace neurocuda::cuda
