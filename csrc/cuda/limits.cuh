// What the current device offers, asked at every launch: a process may use several.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/device.cuh"

namespace neurocuda::cuda {

struct DeviceLimits {
  int multiprocessors;
  int shared_memory;  // bytes that a block may have if it asks
  bool cooperative;   // all blocks of a launch can be made to run at once
};

inline DeviceLimits device_limits() {
#if defined(NEUROCUDA_EMULATED)
  const bool cooperative = true;  // as far as the launcher takes care of it
#else
  const bool cooperative = attribute(cudaDevAttrCooperativeLaunch) != 0;
#endif
  return {attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
          cooperative};
}

// Blocks of a launch whose kernel goes on from tile to tile, by the number of blocks, until all are done.
inline unsigned grid_of(std::int64_t tiles) {
  std::int64_t most = 0x7fffffff;
#if defined(NEUROCUDA_EMULATED)
  most = emulation::setting("NEUROCUDA_EMULATION_BLOCKS", 0x7fffffff);  // so that tests see them go on
#endif
  return static_cast<unsigned>(std::min(tiles, most));
}

}  // namespace neurocuda::cuda
