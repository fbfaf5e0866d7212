#include "cuda/neuron_plain.cuh"

namespace neurocuda::cuda {

bool neuron_plain(const NeuronCall& call, int width, std::int64_t first, std::int64_t last, Stream stream) {
  return launch_plain(call, width, first, last, stream);
}

}  // namespace neurocuda::cuda
