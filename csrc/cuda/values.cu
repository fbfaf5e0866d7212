#include "cuda/values.cuh"

namespace neurocuda::cuda {

void all_finite(const FiniteCall& call, Stream stream) { launch_finite(call, stream); }

void on_grid(const OnGridCall& call, Stream stream) { launch_on_grid(call, stream); }

void same_bits(const SameBitsCall& call, Stream stream) { launch_same_bits(call, stream); }

}  // namespace neurocuda::cuda
