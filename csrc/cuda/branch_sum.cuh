// The sum of branches, for targets that are not neurons. There is no state, so blocks are distributed over
// neurons (x) and time steps (y); the wide and the staged kernel are as in neuron.cuh.
#pragma once

#include "cuda/launch_config.cuh"
#include "cuda/signal.cuh"
#include "params/branch_sum.h"

namespace neurocuda::cuda {

constexpr int kSumSteps = 16;  // per block and iteration: enough to keep its accesses in flight

template <int width>
__global__ __launch_bounds__(kWideThreads) void branch_sum_wide(
    const __grid_constant__ BranchSumParams params, std::int64_t first, std::int64_t last) {
  const std::int64_t neuron = first + (std::int64_t{blockIdx.x} * kWideThreads + threadIdx.x) * width;
  if (neuron >= last) return;
  const auto row = [&](const Signal& signal, int) { return signal.data + neuron * size_of(signal.type); };
  char* const output = params.output.data + neuron * size_of(Element::kFloat32);
  for (std::int64_t step = std::int64_t{blockIdx.y} * kSumSteps; step < params.steps;
       step += std::int64_t{gridDim.y} * kSumSteps) {
    sum_over_time<width, stages_for(width)>(
        params.branches, params.branch_count, step, min(step + kSumSteps, params.steps), row,
        [&](std::int64_t at, const float (&sum)[width]) {
          store_floats<width>(sum, output + at * params.output.time_stride);
        });
  }
}

__global__ __launch_bounds__(kStagedThreads) static void branch_sum_staged(
    const __grid_constant__ BranchSumParams params, std::int64_t first, std::int64_t last) {
  const std::int64_t neuron = first + std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (neuron >= last) return;
  NEUROCUDA_DYNAMIC_SHARED(std::int64_t, offsets);
  const BranchRows row(params.branches, params.branch_count, neuron, offsets);
  char* const output = params.output.data + offset_of(params.output, neuron);
  for (std::int64_t step = std::int64_t{blockIdx.y} * kSumSteps; step < params.steps;
       step += std::int64_t{gridDim.y} * kSumSteps) {
    sum_over_time<1, stages_for(1)>(params.branches, params.branch_count, step,
                                    min(step + kSumSteps, params.steps), row,
                                    [&](std::int64_t at, const float (&sum)[1]) {
                                      store_floats<1>(sum, output + at * params.output.time_stride);
                                    });
  }
}

}  // namespace neurocuda::cuda
