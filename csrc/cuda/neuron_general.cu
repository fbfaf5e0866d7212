#include "cuda/kernels.h"
#include "cuda/neuron_general.cuh"

namespace neurocuda::cuda {

void neuron_general(const NeuronParams& params, Stream stream) {
  const int threads = staged_threads(params.neurons);
  const std::size_t shared = BranchRows::bytes(params.branches, params.branch_count, threads);
  NEUROCUDA_LAUNCH(neuron_any_kind, blocks_for(params.neurons, threads), threads, shared, stream, params);
}

}  // namespace neurocuda::cuda
