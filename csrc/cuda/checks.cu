#include "cuda/checks.cuh"

namespace neurocuda::cuda {

void all_finite(const FiniteParams& params, Stream stream) {
  if (params.count == 0) return;
  const unsigned blocks = check_blocks(params.count);
  if (params.type == Element::kFloat32) {
    NEUROCUDA_LAUNCH(finite_kernel<std::uint32_t>, blocks, kCheckThreads, 0, stream, params, 0x7f800000u);
  } else {
    const std::uint32_t exponent = params.type == Element::kFloat16 ? 0x7c00u : 0x7f80u;
    NEUROCUDA_LAUNCH(finite_kernel<std::uint16_t>, blocks, kCheckThreads, 0, stream, params, exponent);
  }
}

void on_grid(const OnGridParams& params, Stream stream) {
  if (params.count == 0) return;
  NEUROCUDA_LAUNCH(on_grid_kernel, check_blocks(params.count), kCheckThreads, 0, stream, params);
}

void same_bits(const SameBitsParams& params, Stream stream) {
  std::int64_t most = 0;
  for (int pair = 0; pair < params.count; ++pair) most = std::max(most, params.pairs[pair].bytes);
  if (most == 0) return;
  const dim3 blocks(check_blocks((most + 3) / 4), static_cast<unsigned>(params.count));
  NEUROCUDA_LAUNCH(same_bits_kernel, blocks, kCheckThreads, 0, stream, params);
}

}  // namespace neurocuda::cuda
