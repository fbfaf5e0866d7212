// The gradients of a population over time: a thread runs one neuron forwards, then backwards.
//
// Bytes. The way back needs the potential u before every reset, which spikes do not tell: either something
// keeps it, or it is computed from the branches once more. Beyond the forward pass of inference, a neuron and
// step costs, for R bytes of branches, with gradients of 4 bytes in and out:
//
//                                                    one branch in float32   in fp16   two in float32
//   the forward pass keeps u         4 + 4 + 8                16                16           16
//   the backward pass keeps u        R + 4 + 4 + 8            20                18           24
//   computed twice, by segments      2R + 8 + 2S              16.5              12.5         24.5
//   computed once, a single segment  R + 8                    12                10           16
//
// where S = 4 bytes / kBackwardSegment is the state at the start of a segment (twice that with a synapse).
// The last two are what is done: the forward pass stays that of inference, nothing as large as a signal
// outlives it, and runs of up to kBackwardSegment steps, as networks are mostly trained, move the least that
// is possible.
#pragma once

#include <cstdint>

#include "cuda/coefficients.cuh"
#include "cuda/device.cuh"
#include "cuda/signal.cuh"
#include "neuron_update.h"
#include "params/neuron_backward.h"

namespace neurocuda::cuda {

constexpr int kBackwardThreads = 128;  // of a block

// Blocks that share a multiprocessor, at the least: 5, with 8 loads of 4 bytes by each of their threads on
// the way, make 20 KB. An H100 needs 3.35 TB/s * 0.6 us / 132 = 15 KB on the way to be busy.
constexpr int kBackwardBlocks = 5;

// How many spikes a neuron emits in a step, at most.
enum class Emits { kNone, kOne, kMany };

template <Emits emits>
__device__ __forceinline__ float spikes_as(Fires fires, float u, float threshold) {
  if (emits == Emits::kMany) return spikes_of<Fires::kMany>(u, threshold);
  return fires == Fires::kReaching ? spikes_of<Fires::kReaching>(u, threshold)
                                   : spikes_of<Fires::kAbove>(u, threshold);
}

// One step forwards; returns the potential before the reset.
template <Synapse synapse, Emits emits>
__device__ __forceinline__ float advance(const NeuronKind& kind, float x, const NeuronCoefficients& c,
                                         NeuronState& state) {
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

// The derivative of the spikes of u.
template <Emits emits>
__device__ __forceinline__ float slope_of(const NeuronBackwardParams& call, float u, float threshold) {
  float nearest = threshold;
  if (emits == Emits::kMany) {
    const float multiple = nearbyintf(divide(u, threshold));
    nearest = multiply(threshold, multiple < 1.0f ? 1.0f : multiple);
  }
  return derivative(call.surrogate, subtract(u, nearest), call.scale);
}

// A step of the past: the input, the state before it, the potential before the reset, and the gradients that
// arrive at its output and its state.
struct PastStep {
  float x, v, i, u, of_output, of_v, of_i;
  bool last;
};

// The gradients under way: of the state after a step, to be replaced by that before it; of i through u, where
// u uses the previous current; and those of the coefficients, sums over time.
template <bool sums>
struct Gradients {
  float v, i, current;
  float of[sums ? kCoefficients : 1];
};

// One step backwards, the reverse of `advance`; returns the gradient of the input. Sums stand in the order in
// which autograd adds them.
template <Synapse synapse, Emits emits, bool sums>
__device__ __forceinline__ float retreat(const NeuronBackwardParams& call, const NeuronCoefficients& c,
                                         const PastStep& at, Gradients<sums>& to) {
  float du;  // of the potential before the reset
  if (emits == Emits::kNone) {
    du = add(add(at.of_v, at.last ? to.v : at.of_output), at.last ? at.of_output : to.v);
  } else {
    const float dv = add(at.of_v, to.v);                // of the potential after it
    const bool given = call.of_output.data != nullptr;  // 0 * NaN is not 0
    const float slope = given ? multiply(at.of_output, slope_of<emits>(call, at.u, c.threshold)) : 0.0f;
    const float spikes = spikes_as<emits>(call.kind.fires, at.u, c.threshold);
    if (call.kind.reset == Reset::kToValue) {
      const bool fired = spikes > 0.0f;
      du = add(slope, fired ? 0.0f : dv);
      if (sums) to.of[kVReset] = add(to.of[kVReset], fired ? dv : 0.0f);
    } else {
      du = add(slope, dv);
      if (sums) to.of[kThreshold] = add(to.of[kThreshold], multiply(-dv, spikes));
    }
    if (sums) to.of[kThreshold] = add(to.of[kThreshold], -slope);
  }
  const float through_u = multiply(du, c.gain_v);
  float current = at.x, dx = through_u;
  if (synapse != Synapse::kNone) {
    float di;  // of the current after the step
    if (synapse == Synapse::kUpdated) {
      if (sums) current = updated_current(at.x, at.i, c);
      di = add(add(at.of_i, to.i), through_u);
    } else {
      if (sums) current = at.i;
      di = add(add(at.of_i, to.current), to.i);
      to.current = through_u;
    }
    if (sums) to.of[kDecayI] = add(to.of[kDecayI], multiply(di, at.i));
    if (sums) to.of[kGainI] = add(to.of[kGainI], multiply(di, at.x));
    dx = multiply(di, c.gain_i);
    to.i = multiply(di, c.decay_i);
  }
  if (sums) to.of[kDecayV] = add(to.of[kDecayV], multiply(du, at.v));
  if (sums) to.of[kGainV] = add(to.of[kGainV], multiply(du, current));
  if (sums) to.of[kBiasV] = add(to.of[kBiasV], du);
  to.v = multiply(du, c.decay_v);
  return dx;
}

// Zero where a neuron of the kind has none.
__device__ __forceinline__ NeuronCoefficients coefficients_of(const Coefficient* all, std::int64_t n) {
  const auto value = [&](int name) {
    float found = 0.0f;
    if (all[name].values != nullptr) {
      read_coefficient<1>(all[name], n, [&](int, float read) { found = read; });
    }
    return found;
  };
  return {value(kDecayV), value(kGainV),     value(kBiasV), value(kDecayI),
          value(kGainI),  value(kThreshold), value(kVReset)};
}

__device__ __forceinline__ float read_one(const Signal& signal, const char* from) {
  Raw<1> raw;
  float value[1];
  load<1>(signal.type, from, raw);
  take<1>(signal.type, raw, false, value);
  return value[0];
}

// Steps first .. first + count - 1 of the neuron that lies at `from` in step 0, to a column of shared memory,
// set or added. Eight loads are on the way at a time.
__device__ __forceinline__ void read_column(const Signal& signal, const char* from, std::int64_t first,
                                            int count, bool accumulate, float* column) {
  constexpr int kAtOnce = 8;
  from += first * signal.time_stride;
#pragma unroll 1
  for (int start = 0; start < count; start += kAtOnce) {
    Raw<1> raw[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (start + k < count) load<1>(signal.type, from + (start + k) * signal.time_stride, raw[k]);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (start + k >= count) break;
      float value[1] = {column[(start + k) * kBackwardThreads]};
      take<1>(signal.type, raw[k], accumulate, value);
      column[(start + k) * kBackwardThreads] = value[0];
    }
  }
}

// Passes over segments of steps: forwards over all but the last, of which nothing stays but the state after
// each; then backwards over all, each of which is first run forwards. What a thread keeps of a segment lies
// in columns of shared memory that are its own: in registers it would take unrolled loops, too long for the
// instruction caches.
template <Synapse synapse, Emits emits, bool sums>
__global__ void __launch_bounds__(kBackwardThreads, kBackwardBlocks)
    neuron_backward_kernel(const __grid_constant__ NeuronBackwardParams call) {
  constexpr bool kForwards = emits != Emits::kNone || sums, kSynapse = synapse != Synapse::kNone;
  constexpr int kSteps = kBackwardSegment, kParts = kSynapse ? 2 : 1;  // of the state
  // The rows of a column; u takes the place of x where that is not needed any more.
  constexpr int kOfOutput = 0, kX = kForwards ? 1 : 0, kU = sums ? 2 : kX, kV = sums ? 3 : 0;
  constexpr int kI = sums && kSynapse ? 4 : 0, kRows = 1 + (kI > 0 ? kI : kV > 0 ? kV : kX);
  NEUROCUDA_SHARED(float, columns, [kRows][kSteps][kBackwardThreads]);
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kBackwardThreads + threadIdx.x;
  if (n >= call.neurons) return;
  const auto own = [&](int row, int k) -> float& { return columns[row][k][threadIdx.x]; };
  const auto place = [&](const Signal& signal) {
    return signal.data == nullptr ? nullptr : signal.data + offset_of(signal, n);
  };
  const auto value = [&](const Signal& signal) {
    return signal.data == nullptr ? 0.0f : read_one(signal, place(signal));
  };

  const NeuronCoefficients c = coefficients_of(call.coefficients, n);
  const NeuronState start{value(call.v), value(call.i)};
  char *const of_output = place(call.of_output), *const of_v = place(call.of_trace_v);
  char *const of_i = place(call.of_trace_i), *const to_branches = place(call.to_branches);
  Gradients<sums> to{value(call.of_v), value(call.of_i), 0.0f, {}};
  NeuronState state = start;
  const std::int64_t last = call.steps == 0 ? -1 : (call.steps - 1) / kSteps;
  for (std::int64_t pass = kForwards ? 0 : last; pass <= 2 * last; ++pass) {
    const bool backwards = pass >= last;
    const std::int64_t segment = backwards ? 2 * last - pass : pass, first = segment * kSteps;
    const int count = static_cast<int>(segment < last ? kSteps : call.steps - first);
    if (backwards && of_output != nullptr) {
      read_column(call.of_output, of_output, first, count, false, &own(kOfOutput, 0));
    }
    if (kForwards) {
      for (int branch = 0; branch < call.branch_count; ++branch) {
        const Signal& signal = call.branches[branch];
        read_column(signal, signal.data + offset_of(signal, n), first, count, branch > 0, &own(kX, 0));
      }
      if (segment == 0) {
        state = start;
      } else if (pass > last) {
        const float* before = call.states + (segment - 1) * kParts * call.neurons + n;
        state.v = before[0];
        if (kSynapse) state.i = before[call.neurons];
      }
#pragma unroll 1
      for (int k = 0; k < count; ++k) {
        if (sums) own(kV, k) = state.v;
        if (sums && kSynapse) own(kI, k) = state.i;
        const float u = advance<synapse, emits>(call.kind, own(kX, k), c, state);
        if (emits != Emits::kNone) own(kU, k) = u;
      }
      if (!backwards) {
        float* after = call.states + segment * kParts * call.neurons + n;
        after[0] = state.v;
        if (kSynapse) after[call.neurons] = state.i;
        continue;
      }
    }
#pragma unroll 1
    for (int k = count - 1; k >= 0; --k) {
      const std::int64_t step = first + k;
      const auto arriving = [&](const Signal& signal, const char* from) {
        return from == nullptr ? 0.0f : read_one(signal, from + step * signal.time_stride);
      };
      PastStep at{};
      if (kForwards) at.x = own(kX, k);
      if (emits != Emits::kNone) at.u = own(kU, k);
      if (sums) at.v = own(kV, k);
      if (sums && kSynapse) at.i = own(kI, k);
      if (of_output != nullptr) at.of_output = own(kOfOutput, k);
      at.of_v = arriving(call.of_trace_v, of_v);
      at.of_i = arriving(call.of_trace_i, of_i);
      at.last = step == call.steps - 1;
      const float dx = retreat<synapse, emits, sums>(call, c, at, to);
      if (to_branches != nullptr) {
        *reinterpret_cast<float*>(to_branches + step * call.to_branches.time_stride) = dx;
      }
    }
  }

  const auto leave = [&](const Signal& signal, float gradient) {
    if (signal.data != nullptr) *reinterpret_cast<float*>(place(signal)) = gradient;
  };
  leave(call.to_v, to.v);
  leave(call.to_i, add(to.i, to.current));
#pragma unroll
  for (int name = 0; sums && name < kCoefficients; ++name) leave(call.to_coefficients[name], to.of[name]);
}

template <Synapse synapse, Emits emits>
void launch_neuron_backward(const NeuronBackwardParams& call, bool sums, Stream stream) {
  const auto blocks = static_cast<unsigned>((call.neurons + kBackwardThreads - 1) / kBackwardThreads);
  if (sums) {
    NEUROCUDA_LAUNCH((neuron_backward_kernel<synapse, emits, true>), blocks, kBackwardThreads, 0, stream,
                     call);
  } else {
    NEUROCUDA_LAUNCH((neuron_backward_kernel<synapse, emits, false>), blocks, kBackwardThreads, 0, stream,
                     call);
  }
}

template <Synapse synapse>
void launch_neuron_backward(const NeuronBackwardParams& call, bool sums, Stream stream) {
  switch (call.kind.fires) {
    case Fires::kNever:
      return launch_neuron_backward<synapse, Emits::kNone>(call, sums, stream);
    case Fires::kMany:
      return launch_neuron_backward<synapse, Emits::kMany>(call, sums, stream);
    default:
      return launch_neuron_backward<synapse, Emits::kOne>(call, sums, stream);
  }
}

inline void launch_neuron_backward(const NeuronBackwardParams& call, Stream stream) {
  if (call.neurons == 0) return;
  bool sums = false;
  for (const Signal& signal : call.to_coefficients) sums = sums || signal.data != nullptr;
  switch (call.kind.synapse) {
    case Synapse::kNone:
      return launch_neuron_backward<Synapse::kNone>(call, sums, stream);
    case Synapse::kUpdated:
      return launch_neuron_backward<Synapse::kUpdated>(call, sums, stream);
    case Synapse::kPrevious:
      return launch_neuron_backward<Synapse::kPrevious>(call, sums, stream);
  }
}

}  // namespace neurocuda::cuda
