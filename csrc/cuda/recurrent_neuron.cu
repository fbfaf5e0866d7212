#include "cuda/kernels.h"
#include "cuda/recurrent_neuron.cuh"

namespace neurocuda::cuda {

void recurrent_neuron(const RecurrentParams& call, Stream stream) { launch_recurrent_neuron(call, stream); }

std::size_t recurrent_scratch(const RecurrentParams& call) { return scratch_of(plan_of(call), call); }

}  // namespace neurocuda::cuda
