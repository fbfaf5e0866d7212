#include "cuda/pack.cuh"

namespace neurocuda::cuda {

namespace {

bool packs_wide(const PackParams& params) {
  return params.neurons % 8 == 0 && allows(params.spikes, 8, params.steps);
}

dim3 pack_grid(const PackParams& params, bool wide) {
  return {blocks_for(wide ? params.neurons / 8 : params.neurons, kPackThreads),
          blocks_for(params.steps, 1, kMaxGridY)};
}

}  // namespace

void pack_spikes(const PackParams& params, Stream stream) {
  if (params.steps == 0 || params.neurons == 0) return;
  const bool wide = packs_wide(params);
  if (wide) {
    NEUROCUDA_LAUNCH(pack_wide, pack_grid(params, wide), kPackThreads, 0, stream, params);
  } else {
    NEUROCUDA_LAUNCH(pack_any, pack_grid(params, wide), kPackThreads, 0, stream, params);
  }
}

void unpack_spikes(const PackParams& params, Stream stream) {
  if (params.steps == 0 || params.neurons == 0) return;
  const bool wide = packs_wide(params);
  if (wide) {
    NEUROCUDA_LAUNCH(unpack_wide, pack_grid(params, wide), kPackThreads, 0, stream, params);
  } else {
    NEUROCUDA_LAUNCH(unpack_any, pack_grid(params, wide), kPackThreads, 0, stream, params);
  }
}

}  // namespace neurocuda::cuda
