// A population over time: each thread owns some neighbouring neurons, keeps their state and coefficients in
// registers, and goes through time once. Two shapes of one kernel:
//
//   wide    4 neurons (float32) or 8 (float16, bfloat16, bytes) a thread, accesses of 16 bytes, 4 of them
//   under way staged  one neuron a thread, 16 accesses under way; any strides, any alignment
#pragma once

#include "cuda/coefficients.cuh"
#include "cuda/dispatch.cuh"
#include "cuda/launch_config.cuh"
#include "cuda/neuron_traits.h"
#include "cuda/signal.cuh"
#include "params/neuron.h"

namespace neurocuda::cuda {

// What one thread does. row(signal) is where its neurons lie in a step of a signal, and branch_row(signal,
// number) where they lie in one of a branch.
template <class Kind, int width, bool uniform, class Row, class BranchRow>
__device__ __forceinline__ void run_neurons(const NeuronParams& call, std::int64_t neuron, bool there,
                                            const Row& row, const BranchRow& branch_row) {
  constexpr Synapse synapse = Kind::synapse;
  constexpr Fires fires = Kind::fires;
  constexpr Reset reset = Kind::reset;
  NeuronCoefficients c[uniform ? 1 : width];
  coefficients_of<synapse, fires, reset>(call.coefficients, neuron, c);
  char* const place_v = row(call.v);
  char* const place_i = synapse == Synapse::kNone ? nullptr : row(call.i);
  char* const trace_v = call.trace_v.data == nullptr ? nullptr : row(call.trace_v);
  char* const trace_i = call.trace_i.data == nullptr ? nullptr : row(call.trace_i);
  char* const output = call.packed ? call.output.data : row(call.output);
  float v[width], i[width] = {};
  load_state<width>(call.v_before, neuron, place_v, v);
  if (synapse != Synapse::kNone) load_state<width>(call.i_before, neuron, place_i, i);

  sum_over_time<width, stages_for(width)>(
      call.branches, call.branch_count, 0, call.steps, branch_row,
      [&](std::int64_t step, const float (&sum)[width]) {
        float emitted[width];
#pragma unroll
        for (int k = 0; k < width; ++k) {
          NeuronState state{v[k], i[k]};
          float u;
          emitted[k] = update_neuron<synapse, fires, reset>(sum[k], c[uniform ? 0 : k], state, u);
          v[k] = state.v;
          i[k] = state.i;
        }
        char* const place = output + step * call.output.time_stride;
        if (call.packed) {
          store_bits<width>(emitted, there, neuron, place);
        } else {
          store<width>(call.output.type, emitted, place);
        }
        if (trace_v != nullptr && there) store_floats<width>(v, trace_v + step * call.trace_v.time_stride);
        if (trace_i != nullptr && there) store_floats<width>(i, trace_i + step * call.trace_i.time_stride);
      });
  if (!there) return;
  store_floats<width>(v, place_v);
  if (synapse != Synapse::kNone) store_floats<width>(i, place_i);
}

// The blocks that a multiprocessor is to hold, and so the registers of a thread: 128, or 168 where each of
// eight neurons has coefficients of its own.
template <int width, bool uniform>
constexpr int kWideBlocks = width == 8 && !uniform ? 3 : kResidentThreads / kWideThreads;

// Neurons first .. last - 1, of which each thread has `width`. Where bits are packed, threads beyond the last
// help to put them together: they repeat its neurons, and store nothing.
template <class Kind, int width, bool uniform>
__global__ __launch_bounds__(kWideThreads, (kWideBlocks<width, uniform>)) void neuron_wide(
    const __grid_constant__ NeuronParams call, std::int64_t first, std::int64_t last) {
  std::int64_t neuron = first + (std::int64_t{blockIdx.x} * kWideThreads + threadIdx.x) * width;
  const bool there = neuron < last;
  if (!there) {
    if (!call.packed) return;
    neuron = last - width;
  }
  const auto row = [&](const Signal& signal) { return signal.data + neuron * size_of(signal.type); };
  run_neurons<Kind, width, uniform>(call, neuron, there, row,
                                    [&](const Signal& branch, int) { return row(branch); });
}

template <class Kind>
__global__ __launch_bounds__(kStagedThreads, kResidentThreads / kStagedThreads) void neuron_staged(
    const __grid_constant__ NeuronParams call, std::int64_t first, std::int64_t last) {
  std::int64_t neuron = first + std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const bool there = neuron < last;
  if (!there) {
    if (!call.packed) return;
    neuron = last - 1;
  }
  NEUROCUDA_DYNAMIC_SHARED(std::int64_t, places);
  const auto row = [&](const Signal& signal) { return signal.data + offset_of(signal, neuron); };
  run_neurons<Kind, 1, true>(call, neuron, there, row,
                             BranchRows(call.branches, call.branch_count, neuron, places));
}

// The neurons of a thread: more than one where memory allows it and there are enough of them.
inline int width_of(const NeuronParams& call) {
  const int width = width_of(call.branches, call.branch_count, call.steps);
  const bool possible = allows(call.v, width, 1) && allows(call.i, width, 1) &&
                        (call.packed || allows(call.output, width, call.steps)) &&
                        allows(call.trace_v, width, call.steps) && allows(call.trace_i, width, call.steps);
  const std::int64_t bytes = mean_size(call.branches, call.branch_count);
  return possible && fills_device(call.neurons, width, bytes, call.steps * call.branch_count) ? width : 1;
}

// Whether neighbours that a thread takes at once share their coefficients.
inline bool shares(const Coefficient* coefficients, int width) {
  for (int name = 0; name < kCoefficients; ++name) {
    const Coefficient& c = coefficients[name];
    if (c.values != nullptr && c.count > 1 && c.inner % width != 0) return false;
  }
  return true;
}

template <class Kind, int width>
void launch_wide(const NeuronParams& call, std::int64_t neurons, Stream stream) {
  const unsigned blocks = blocks_for(neurons / width, kWideThreads);
  if (shares(call.coefficients, width)) {
    NEUROCUDA_LAUNCH((neuron_wide<Kind, width, true>), blocks, kWideThreads, 0, stream, call, 0, neurons);
  } else {
    NEUROCUDA_LAUNCH((neuron_wide<Kind, width, false>), blocks, kWideThreads, 0, stream, call, 0, neurons);
  }
}

template <class Kind>
void launch_staged(const NeuronParams& call, std::int64_t first, Stream stream) {
  const std::int64_t neurons = call.neurons - first;
  const int threads = staged_threads(neurons);
  const std::size_t shared = BranchRows::bytes(call.branches, call.branch_count, threads);
  const unsigned blocks = blocks_for(neurons, threads);
  NEUROCUDA_LAUNCH((neuron_staged<Kind>), blocks, threads, shared, stream, call, first, call.neurons);
}

inline void launch_neuron(const NeuronParams& call, Stream stream) {
  if (call.steps == 0 || call.neurons == 0) return;
  const int width = width_of(call);
  // Those that are left over in a row that is no multiple of the width; bits are shared by eight.
  const std::int64_t wide = width == 1 ? 0 : call.neurons / 8 * 8;
  const bool wide_done =
      wide > 0 && shares(call.coefficients, width) && neuron_plain(call, width, 0, wide, stream);
  const bool rest_done = wide == 0 && neuron_plain(call, 1, 0, call.neurons, stream);
  with_kind(call.kind, [&](auto kind) {
    using Kind = decltype(kind);
    if (!wide_done && wide > 0 && width == 4) launch_wide<Kind, 4>(call, wide, stream);
    if (!wide_done && wide > 0 && width == 8) launch_wide<Kind, 8>(call, wide, stream);
    if (!rest_done && wide < call.neurons) launch_staged<Kind>(call, wide, stream);
  });
}

}  // namespace neurocuda::cuda
