// The population over time of the rare kinds: those with a late reset or a lower bound. One kernel for all of
// them, which reads the kind at run time: one neuron per thread, any strides and alignment, as `staged` of
// neuron.cuh.
#pragma once

#include "cuda/coefficients.cuh"
#include "cuda/device.cuh"
#include "cuda/launch_config.cuh"
#include "cuda/neuron_traits.h"
#include "cuda/signal.cuh"
#include "params/neuron.h"

namespace neurocuda::cuda {

__global__ __launch_bounds__(kStagedThreads, kResidentThreads / kStagedThreads) void neuron_any_kind(
    const __grid_constant__ NeuronParams params) {
  std::int64_t neuron = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const bool valid = neuron < params.neurons;
  if (!valid) {  // with packed bits, it stays for the warp operations
    if (!params.packed) return;
    neuron = params.neurons - 1;
  }
  NEUROCUDA_DYNAMIC_SHARED(std::int64_t, offsets);
  const auto row = [&](const Signal& signal) { return address_of(signal, neuron); };
  const BranchRows branches(params.branches, params.branch_count, neuron, offsets);
  const NeuronCoefficients c = coefficients_at(params.coefficients, neuron);
  const GeneralKind kind(params.kind);
  const bool synapse = params.i.data != nullptr;
  char *const row_v = row(params.v), *const row_i = row(params.i);
  char *const trace_v = row(params.trace_v), *const trace_i = row(params.trace_i);
  char* const output = params.packed ? params.output.data : row(params.output);
  float v[1], i[1] = {};
  load_state<1>(params.v_before, neuron, row_v, v);
  if (synapse) load_state<1>(params.i_before, neuron, row_i, i);
  NeuronState state{v[0], i[0]};

  sum_over_time<1, stages_for(1)>(params.branches, params.branch_count, 0, params.steps, branches,
                                  [&](std::int64_t step, const float (&sum)[1]) {
                                    float u;
                                    const float emitted[1] = {update_general(kind, sum[0], c, state, u)};
                                    char* const to = output + step * params.output.time_stride;
                                    if (params.packed) {
                                      store_bits<1>(emitted, valid, neuron, to);
                                    } else {
                                      store<1>(params.output.type, emitted, to);
                                    }
                                    const auto trace = [&](const Signal& signal, char* first, float value) {
                                      if (first != nullptr && valid)
                                        store_floats<1>({value}, first + step * signal.time_stride);
                                    };
                                    trace(params.trace_v, trace_v, state.v);
                                    trace(params.trace_i, trace_i, state.i);
                                  });
  if (!valid) return;
  store_floats<1>({state.v}, row_v);
  if (synapse) store_floats<1>({state.i}, row_i);
}

}  // namespace neurocuda::cuda
