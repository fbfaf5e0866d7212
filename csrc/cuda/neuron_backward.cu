#include "cuda/neuron_backward.cuh"

namespace neurocuda::cuda {

void neuron_backward(const NeuronBackwardParams& call, Stream stream) {
  launch_neuron_backward(call, stream);
}

}  // namespace neurocuda::cuda
