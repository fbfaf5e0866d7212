// A population whose spikes come back to it through a matrix one step later: launches.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/recurrent_plan.cuh"
#include "cuda/recurrent_resident.cuh"
#include "cuda/recurrent_spread.cuh"

namespace neurocuda::cuda {

template <class Kind, int branches, bool shared>
void launch_resident(const RecurrentParams& call, const RecurrentPlan& plan, Stream stream) {
  const std::int64_t rows = call.samples / call.matrices;
  const std::int64_t blocks = call.matrices * ((rows + plan.samples - 1) / plan.samples);
  allow_shared(recurrent_resident<Kind, branches, shared>, plan.shared);
  NEUROCUDA_LAUNCH((recurrent_resident<Kind, branches, shared>), grid_of(blocks), plan.samples * plan.threads,
                   plan.shared, stream, call, plan);
}

template <Synapse synapse>
void launch_fixed(const RecurrentParams& call, const RecurrentPlan& plan, Stream stream) {
  if (call.kind.reset == Reset::kToValue)
    return launch_resident<KindOf<synapse, Fires::kAbove, Reset::kToValue>, 1, true>(call, plan, stream);
  return launch_resident<KindOf<synapse, Fires::kAbove, Reset::kSubtract>, 1, true>(call, plan, stream);
}

// With one branch and the weight at hand steps are short: the usual kinds are not looked up in each of them.
inline void launch_shared(const RecurrentParams& call, const RecurrentPlan& plan, Stream stream) {
  if (call.branch_count > 1) return launch_resident<AnyKind, kMaxBranches, true>(call, plan, stream);
  const bool usual = call.kind.fires == Fires::kAbove;
  if (usual && call.kind.synapse == Synapse::kNone) return launch_fixed<Synapse::kNone>(call, plan, stream);
  if (usual && call.kind.synapse == Synapse::kUpdated)
    return launch_fixed<Synapse::kUpdated>(call, plan, stream);
  return launch_resident<AnyKind, 1, true>(call, plan, stream);
}

inline void launch_global(const RecurrentParams& call, const RecurrentPlan& plan, Stream stream) {
  if (call.branch_count > 1) return launch_resident<AnyKind, kMaxBranches, false>(call, plan, stream);
  return launch_resident<AnyKind, 1, false>(call, plan, stream);
}

inline void launch_spread(const RecurrentParams& call, const RecurrentPlan& plan, Stream stream) {
  const SpreadSpikes all(call, plan);
  const std::int64_t units = call.samples * plan.words;
  const unsigned blocks = grid_of((units + kSpreadWarps - 1) / kSpreadWarps);
  NEUROCUDA_LAUNCH(recurrent_first_spikes, blocks, kSpreadWarps * kWarp, 0, stream, call, all);
  if (plan.way == RecurrentWay::kSteps) {
    for (std::int64_t step = 0; step < call.steps; ++step)
      NEUROCUDA_LAUNCH(recurrent_one_step, blocks, kSpreadWarps * kWarp, 0, stream, call, all, step);
    return;
  }
  const unsigned grid = static_cast<unsigned>(call.matrices * plan.words * plan.groups);
  const int threads = plan.samples * kWarp;
  allow_shared(recurrent_grid, plan.shared);
#if defined(NEUROCUDA_EMULATED)
  for (std::int64_t step = 0; step < call.steps; ++step)  // blocks run one after the other
    NEUROCUDA_LAUNCH(recurrent_grid, grid, threads, plan.shared, stream, call, all, plan, step, step + 1);
#else
  std::int64_t first = 0;
  void* arguments[] = {const_cast<RecurrentParams*>(&call), const_cast<SpreadSpikes*>(&all),
                       const_cast<RecurrentPlan*>(&plan), &first, const_cast<std::int64_t*>(&call.steps)};
  check(
      cudaLaunchCooperativeKernel(recurrent_grid, dim3(grid), dim3(threads), arguments, plan.shared, stream),
      "kernel recurrent_grid");
#endif
}

inline RecurrentPlan plan_of(const RecurrentParams& call) {
  return recurrent_plan(call.samples, call.neurons, call.matrices, device_limits());
}

inline void launch_recurrent_neuron(const RecurrentParams& call, Stream stream) {
  const RecurrentPlan plan = plan_of(call);
  switch (plan.way) {
    case RecurrentWay::kShared:
      return launch_shared(call, plan, stream);
    case RecurrentWay::kGlobal:
      return launch_global(call, plan, stream);
    default:
      return launch_spread(call, plan, stream);
  }
}

}  // namespace neurocuda::cuda
