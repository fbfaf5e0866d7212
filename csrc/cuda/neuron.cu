#include "cuda/neuron.cuh"

namespace neurocuda::cuda {

void neuron(const NeuronParams& params, Stream stream) {
  if (params.steps == 0 || params.neurons == 0) return;
  if (params.kind.general()) return neuron_general(params, stream);
  const int width = width_of(params);
  // Wide threads take a multiple of eight neurons, so that no byte of packed bits is shared with the rest.
  const std::int64_t wide = width == 1 ? 0 : params.neurons / 8 * 8;
  const bool wide_done =
      wide > 0 && shares(params.coefficients, width) && neuron_specialized(params, width, 0, wide, stream);
  const bool rest_done = wide == 0 && neuron_specialized(params, 1, 0, params.neurons, stream);
  with_kind(params.kind, [&](auto kind) {
    using Kind = decltype(kind);
    if (!wide_done && wide > 0 && width == 4) launch_wide<Kind, 4>(params, wide, stream);
    if (!wide_done && wide > 0 && width == 8) launch_wide<Kind, 8>(params, wide, stream);
    if (!rest_done && wide < params.neurons) launch_staged<Kind>(params, wide, stream);
  });
}

}  // namespace neurocuda::cuda
