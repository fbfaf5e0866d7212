#include "cuda/checks.cuh"

namespace neurocuda::cuda {

void all_finite(const FiniteParams& call, Stream stream) { launch_finite(call, stream); }

void on_grid(const OnGridParams& call, Stream stream) { launch_on_grid(call, stream); }

void same_bits(const SameBitsParams& call, Stream stream) { launch_same_bits(call, stream); }

}  // namespace neurocuda::cuda
