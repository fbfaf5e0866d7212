// A population over time: sums its branches and updates its neurons. A thread has some neighbouring neurons,
// keeps their state and coefficients in registers and loops over time; every input is read and every output
// written once.
//
//   wide    4 neurons (float32) or 8 (float16, bfloat16, bytes) per thread, accesses of 16 bytes, 4 in flight
//   staged  one neuron per thread, 16 accesses in flight; any strides and alignment
#pragma once

#include "cuda/coefficients.cuh"
#include "cuda/dispatch.cuh"
#include "cuda/launch_config.cuh"
#include "cuda/neuron_traits.h"
#include "cuda/signal.cuh"
#include "params/neuron.h"

namespace neurocuda::cuda {

// The neurons of one thread over time. row(signal) and branch_row(branch, number) are their addresses in the
// first step. Threads that are not `valid` only take part in packing bits.
template <class Kind, int width, bool uniform, class Row, class BranchRow>
__device__ __forceinline__ void run_neurons(const NeuronParams& params, std::int64_t neuron, bool valid,
                                            const Row& row, const BranchRow& branch_row) {
  constexpr Synapse synapse = Kind::synapse;
  constexpr Fires fires = Kind::fires;
  constexpr Reset reset = Kind::reset;
  NeuronCoefficients c[uniform ? 1 : width];
  coefficients_of<synapse, fires, reset>(params.coefficients, neuron, c);
  char* const row_v = row(params.v);
  char* const row_i = synapse == Synapse::kNone ? nullptr : row(params.i);
  char* const trace_v = params.trace_v.data == nullptr ? nullptr : row(params.trace_v);
  char* const trace_i = params.trace_i.data == nullptr ? nullptr : row(params.trace_i);
  char* const output = params.packed ? params.output.data : row(params.output);
  float v[width], i[width] = {};
  load_state<width>(params.v_before, neuron, row_v, v);
  if (synapse != Synapse::kNone) load_state<width>(params.i_before, neuron, row_i, i);

  sum_over_time<width, stages_for(width)>(
      params.branches, params.branch_count, 0, params.steps, branch_row,
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
        char* const to = output + step * params.output.time_stride;
        if (params.packed) {
          store_bits<width>(emitted, valid, neuron, to);
        } else {
          store<width>(params.output.type, emitted, to);
        }
        if (trace_v != nullptr && valid) store_floats<width>(v, trace_v + step * params.trace_v.time_stride);
        if (trace_i != nullptr && valid) store_floats<width>(i, trace_i + step * params.trace_i.time_stride);
      });
  if (!valid) return;
  store_floats<width>(v, row_v);
  if (synapse != Synapse::kNone) store_floats<width>(i, row_i);
}

// Resident blocks per multiprocessor, which bounds the registers of a thread: 128, or 168 if each of its
// eight neurons has its own coefficients.
template <int width, bool uniform>
constexpr int kWideBlocks = width == 8 && !uniform ? 3 : kResidentThreads / kWideThreads;

// Neurons first .. last - 1, `width` per thread. If spikes are packed as bits, threads beyond the last neuron
// stay for the warp operations: they recompute the last neurons and store nothing.
template <class Kind, int width, bool uniform>
__global__ __launch_bounds__(kWideThreads, (kWideBlocks<width, uniform>)) void neuron_wide(
    const __grid_constant__ NeuronParams params, std::int64_t first, std::int64_t last) {
  std::int64_t neuron = first + (std::int64_t{blockIdx.x} * kWideThreads + threadIdx.x) * width;
  const bool valid = neuron < last;
  if (!valid) {
    if (!params.packed) return;
    neuron = last - width;
  }
  const auto row = [&](const Signal& signal) { return signal.data + neuron * size_of(signal.type); };
  run_neurons<Kind, width, uniform>(params, neuron, valid, row,
                                    [&](const Signal& branch, int) { return row(branch); });
}

template <class Kind>
__global__ __launch_bounds__(kStagedThreads, kResidentThreads / kStagedThreads) void neuron_staged(
    const __grid_constant__ NeuronParams params, std::int64_t first, std::int64_t last) {
  std::int64_t neuron = first + std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const bool valid = neuron < last;
  if (!valid) {
    if (!params.packed) return;
    neuron = last - 1;
  }
  NEUROCUDA_DYNAMIC_SHARED(std::int64_t, offsets);
  const auto row = [&](const Signal& signal) { return signal.data + offset_of(signal, neuron); };
  run_neurons<Kind, 1, true>(params, neuron, valid, row,
                             BranchRows(params.branches, params.branch_count, neuron, offsets));
}

// Neurons per thread: more than one if layout and alignment allow it and there are enough neurons.
inline int width_of(const NeuronParams& params) {
  const int width = width_of(params.branches, params.branch_count, params.steps);
  const bool possible = allows(params.v, width, 1) && allows(params.i, width, 1) &&
                        (params.packed || allows(params.output, width, params.steps)) &&
                        allows(params.trace_v, width, params.steps) &&
                        allows(params.trace_i, width, params.steps);
  const std::int64_t bytes = mean_size(params.branches, params.branch_count);
  return possible && fills_device(params.neurons, width, bytes, params.steps * params.branch_count) ? width
                                                                                                    : 1;
}

// Whether the `width` neighbouring neurons of a thread always have the same coefficients.
inline bool shares(const Coefficient* coefficients, int width) {
  for (int name = 0; name < kCoefficients; ++name) {
    const Coefficient& c = coefficients[name];
    if (c.values != nullptr && c.count > 1 && c.inner % width != 0) return false;
  }
  return true;
}

template <class Kind, int width>
void launch_wide(const NeuronParams& params, std::int64_t neurons, Stream stream) {
  const unsigned blocks = blocks_for(neurons / width, kWideThreads);
  if (shares(params.coefficients, width)) {
    NEUROCUDA_LAUNCH((neuron_wide<Kind, width, true>), blocks, kWideThreads, 0, stream, params, 0, neurons);
  } else {
    NEUROCUDA_LAUNCH((neuron_wide<Kind, width, false>), blocks, kWideThreads, 0, stream, params, 0, neurons);
  }
}

template <class Kind>
void launch_staged(const NeuronParams& params, std::int64_t first, Stream stream) {
  const std::int64_t neurons = params.neurons - first;
  const int threads = staged_threads(neurons);
  const std::size_t shared = BranchRows::bytes(params.branches, params.branch_count, threads);
  const unsigned blocks = blocks_for(neurons, threads);
  NEUROCUDA_LAUNCH((neuron_staged<Kind>), blocks, threads, shared, stream, params, first, params.neurons);
}

}  // namespace neurocuda::cuda
