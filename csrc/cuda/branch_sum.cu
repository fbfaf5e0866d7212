#include "cuda/branch_sum.cuh"

namespace neurocuda::cuda {

void branch_sum(const BranchSumParams& params, Stream stream) {
  if (params.steps == 0 || params.neurons == 0) return;
  const int width = width_of(params.branches, params.branch_count, params.steps);
  const bool wide = width > 1 && allows(params.output, width, params.steps);
  const std::int64_t wide_neurons = wide ? params.neurons / width * width : 0,
                     rest = params.neurons - wide_neurons;
  const auto steps = blocks_for(params.steps, kSumSteps, kMaxGridY);
  if (wide_neurons > 0) {
    const dim3 grid(blocks_for(wide_neurons / width, kWideThreads), steps);
    if (width == 4) {
      NEUROCUDA_LAUNCH((branch_sum_wide<4>), grid, kWideThreads, 0, stream, params, 0, wide_neurons);
    } else {
      NEUROCUDA_LAUNCH((branch_sum_wide<8>), grid, kWideThreads, 0, stream, params, 0, wide_neurons);
    }
  }
  if (rest > 0) {
    const std::size_t shared = BranchRows::bytes(params.branches, params.branch_count, kStagedThreads);
    const dim3 grid(blocks_for(rest, kStagedThreads), steps);
    NEUROCUDA_LAUNCH(branch_sum_staged, grid, kStagedThreads, shared, stream, params, wide_neurons,
                     params.neurons);
  }
}

}  // namespace neurocuda::cuda
