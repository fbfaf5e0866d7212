// Launches the kernels of a recurrent population: its spikes are multiplied with a matrix and added to its
// inputs one time step later.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/recurrent_distributed.cuh"
#include "cuda/recurrent_plan.cuh"
#include "cuda/recurrent_resident.cuh"

namespace neurocuda::cuda {

template <class Kind, int branches, bool shared>
void launch_resident(const RecurrentParams& params, const RecurrentPlan& plan, Stream stream) {
  const std::int64_t rows = params.samples / params.matrices;
  const std::int64_t blocks = params.matrices * ((rows + plan.samples - 1) / plan.samples);
  allow_shared(recurrent_resident<Kind, branches, shared>, plan.shared);
  NEUROCUDA_LAUNCH((recurrent_resident<Kind, branches, shared>), grid_of(blocks), plan.samples * plan.threads,
                   plan.shared, stream, params, plan);
}

template <Synapse synapse>
void launch_fixed(const RecurrentParams& params, const RecurrentPlan& plan, Stream stream) {
  if (params.kind.reset == Reset::kToValue)
    return launch_resident<KindOf<synapse, Fires::kAbove, Reset::kToValue>, 1, true>(params, plan, stream);
  return launch_resident<KindOf<synapse, Fires::kAbove, Reset::kSubtract>, 1, true>(params, plan, stream);
}

// With one branch and the weights in shared memory a time step is short, so common kinds are compiled in.
inline void launch_shared(const RecurrentParams& params, const RecurrentPlan& plan, Stream stream) {
  if (params.branch_count > 1) return launch_resident<AnyKind, kMaxBranches, true>(params, plan, stream);
  const bool common = params.kind.fires == Fires::kAbove;
  if (common && params.kind.synapse == Synapse::kNone)
    return launch_fixed<Synapse::kNone>(params, plan, stream);
  if (common && params.kind.synapse == Synapse::kUpdated)
    return launch_fixed<Synapse::kUpdated>(params, plan, stream);
  return launch_resident<AnyKind, 1, true>(params, plan, stream);
}

inline void launch_global(const RecurrentParams& params, const RecurrentPlan& plan, Stream stream) {
  if (params.branch_count > 1) return launch_resident<AnyKind, kMaxBranches, false>(params, plan, stream);
  return launch_resident<AnyKind, 1, false>(params, plan, stream);
}

inline void launch_distributed(const RecurrentParams& params, const RecurrentPlan& plan, Stream stream) {
  const SpikeExchange all(params, plan);
  const std::int64_t units = params.samples * plan.words;
  const unsigned blocks = grid_of((units + kStepWarps - 1) / kStepWarps);
  NEUROCUDA_LAUNCH(recurrent_first_spikes, blocks, kStepWarps * kWarp, 0, stream, params, all);
  if (plan.variant == RecurrentVariant::kSteps) {
    for (std::int64_t step = 0; step < params.steps; ++step) {
      if (params.kind.general())
        NEUROCUDA_LAUNCH(recurrent_general_step, blocks, kStepWarps * kWarp, 0, stream, params, all, step);
      else
        NEUROCUDA_LAUNCH(recurrent_one_step, blocks, kStepWarps * kWarp, 0, stream, params, all, step);
    }
    return;
  }
  const unsigned grid = static_cast<unsigned>(params.matrices * plan.words * plan.groups);
  const int threads = plan.samples * kWarp;
  allow_shared(recurrent_grid, plan.shared);
#if defined(NEUROCUDA_EMULATED)
  for (std::int64_t step = 0; step < params.steps;
       ++step)  // instead of the grid barrier: blocks run one after another
    NEUROCUDA_LAUNCH(recurrent_grid, grid, threads, plan.shared, stream, params, all, plan, step, step + 1);
#else
  std::int64_t first = 0;
  void* arguments[] = {const_cast<RecurrentParams*>(&params), const_cast<SpikeExchange*>(&all),
                       const_cast<RecurrentPlan*>(&plan), &first, const_cast<std::int64_t*>(&params.steps)};
  check(
      cudaLaunchCooperativeKernel(recurrent_grid, dim3(grid), dim3(threads), arguments, plan.shared, stream),
      "kernel recurrent_grid");
#endif
}

}  // namespace neurocuda::cuda
