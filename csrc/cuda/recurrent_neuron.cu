#include "cuda/recurrent_neuron.cuh"

namespace neurocuda::cuda {

namespace {

RecurrentPlan plan_of(const RecurrentParams& params) {
  RecurrentPlan plan = recurrent_plan(params.samples, params.neurons, params.matrices, device_limits());
  if (params.kind.general()) plan.variant = RecurrentVariant::kSteps;
  return plan;
}

}  // namespace

void recurrent_neuron(const RecurrentParams& params, Stream stream) {
  const RecurrentPlan plan = plan_of(params);
  switch (plan.variant) {
    case RecurrentVariant::kShared:
      return launch_shared(params, plan, stream);
    case RecurrentVariant::kGlobal:
      return launch_global(params, plan, stream);
    default:
      return launch_distributed(params, plan, stream);
  }
}

std::size_t recurrent_scratch(const RecurrentParams& params) { return scratch_of(plan_of(params), params); }

}  // namespace neurocuda::cuda
