// The sum of branches: nothing is carried through time, so blocks share the steps as well as the neurons.
#pragma once

#include "cuda/launch_config.cuh"
#include "cuda/signal.cuh"
#include "params/branch_sum.h"

namespace neurocuda::cuda {

constexpr int kSumSteps = 16;  // of a block, in its turn; as many as keep its accesses under way

template <int width>
__global__ __launch_bounds__(kWideThreads) void branch_sum_wide(const __grid_constant__ BranchSumParams call,
                                                                std::int64_t first, std::int64_t last) {
  const std::int64_t neuron = first + (std::int64_t{blockIdx.x} * kWideThreads + threadIdx.x) * width;
  if (neuron >= last) return;
  const auto row = [&](const Signal& signal, int) { return signal.data + neuron * size_of(signal.type); };
  char* const output = call.output.data + neuron * size_of(Element::kFloat32);
  for (std::int64_t step = std::int64_t{blockIdx.y} * kSumSteps; step < call.steps;
       step += std::int64_t{gridDim.y} * kSumSteps) {
    sum_over_time<width, stages_for(width)>(call.branches, call.branch_count, step,
                                            min(step + kSumSteps, call.steps), row,
                                            [&](std::int64_t at, const float (&sum)[width]) {
                                              store_floats<width>(sum, output + at * call.output.time_stride);
                                            });
  }
}

__global__ __launch_bounds__(kStagedThreads) static void branch_sum_staged(
    const __grid_constant__ BranchSumParams call, std::int64_t first, std::int64_t last) {
  const std::int64_t neuron = first + std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (neuron >= last) return;
  NEUROCUDA_DYNAMIC_SHARED(std::int64_t, places);
  const BranchRows row(call.branches, call.branch_count, neuron, places);
  char* const output = call.output.data + offset_of(call.output, neuron);
  for (std::int64_t step = std::int64_t{blockIdx.y} * kSumSteps; step < call.steps;
       step += std::int64_t{gridDim.y} * kSumSteps) {
    sum_over_time<1, stages_for(1)>(call.branches, call.branch_count, step, min(step + kSumSteps, call.steps),
                                    row, [&](std::int64_t at, const float (&sum)[1]) {
                                      store_floats<1>(sum, output + at * call.output.time_stride);
                                    });
  }
}

inline void launch_branch_sum(const BranchSumParams& call, Stream stream) {
  if (call.steps == 0 || call.neurons == 0) return;
  const int width = width_of(call.branches, call.branch_count, call.steps);
  const bool wide = width > 1 && allows(call.output, width, call.steps);
  const std::int64_t whole = wide ? call.neurons / width * width : 0, rest = call.neurons - whole;
  const auto steps = blocks_for(call.steps, kSumSteps, kMostRows);
  if (whole > 0) {
    const dim3 grid(blocks_for(whole / width, kWideThreads), steps);
    if (width == 4) {
      NEUROCUDA_LAUNCH((branch_sum_wide<4>), grid, kWideThreads, 0, stream, call, 0, whole);
    } else {
      NEUROCUDA_LAUNCH((branch_sum_wide<8>), grid, kWideThreads, 0, stream, call, 0, whole);
    }
  }
  if (rest > 0) {
    const std::size_t shared = BranchRows::bytes(call.branches, call.branch_count, kStagedThreads);
    const dim3 grid(blocks_for(rest, kStagedThreads), steps);
    NEUROCUDA_LAUNCH(branch_sum_staged, grid, kStagedThreads, shared, stream, call, whole, call.neurons);
  }
}

}  // namespace neurocuda::cuda
