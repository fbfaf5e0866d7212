#include "cuda/neuron.cuh"

namespace neurocuda::cuda {

void neuron(const NeuronParams& call, Stream stream) { launch_neuron(call, stream); }

}  // namespace neurocuda::cuda
