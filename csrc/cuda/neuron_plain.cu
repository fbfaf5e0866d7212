#include "cuda/neuron_plain.cuh"

namespace neurocuda::cuda {

bool neuron_plain(const NeuronCall& call, std::int64_t neurons, Stream stream) {
  return launch_plain(call, neurons, stream);
}

}  // namespace neurocuda::cuda
