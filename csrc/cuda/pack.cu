#include "cuda/pack.cuh"

namespace neurocuda::cuda {

void pack_spikes(const PackParams& call, Stream stream) { launch_pack_spikes(call, stream); }

void unpack_spikes(const PackParams& call, Stream stream) { launch_unpack_spikes(call, stream); }

}  // namespace neurocuda::cuda
