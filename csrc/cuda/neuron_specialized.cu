#include "cuda/neuron_specialized.cuh"

namespace neurocuda::cuda {

bool neuron_plain(const NeuronParams& call, int width, std::int64_t first, std::int64_t last, Stream stream) {
  return launch_plain(call, width, first, last, stream);
}

}  // namespace neurocuda::cuda
