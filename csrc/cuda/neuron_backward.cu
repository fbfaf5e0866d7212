#include "cuda/neuron_backward.cuh"

namespace neurocuda::cuda {

void neuron_backward(const NeuronBackwardParams& params, Stream stream) {
  if (params.neurons == 0) return;
  if (params.kind.general()) return launch_general_backward(params, stream);
  bool sums = false;
  for (const Signal& signal : params.to_coefficients) sums = sums || signal.data != nullptr;
  switch (params.kind.synapse) {
    case Synapse::kNone:
      return launch_neuron_backward<Synapse::kNone>(params, sums, stream);
    case Synapse::kUpdated:
      return launch_neuron_backward<Synapse::kUpdated>(params, sums, stream);
    case Synapse::kPrevious:
      return launch_neuron_backward<Synapse::kPrevious>(params, sums, stream);
  }
}

}  // namespace neurocuda::cuda
