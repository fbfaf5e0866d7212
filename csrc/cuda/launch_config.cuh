// Launch configuration: neurons per thread, threads per block, blocks per grid.
//
// To saturate a device, enough bytes must be in flight (bandwidth times latency): on an H100 3.35 TB/s * 0.7
// us = 2.3 MB, 18 KB for each of 132 multiprocessors; on an A100 1.6 TB/s * 0.6 us = 0.9 MB, 9 KB for each of
// 108. A thread of `width` neurons has up to stages_for(width) accesses of `width` elements in flight:
//
//   float32, wide:    4 accesses of 16 bytes, 16 KB from 256 threads: 135,000 neurons on an H100
//   float32, staged: 16 accesses of  4 bytes, 16 KB from 256 threads:  34,000 neurons on an H100
//
// Wide threads make a quarter of the accesses. They are used if they keep about as many bytes in flight as
// the device needs, or as staged threads would.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/neuron_traits.h"

namespace neurocuda::cuda {

constexpr int kWideThreads = 128;
constexpr int kStagedThreads = 128;
constexpr std::int64_t kBytesInFlight = 16 << 10;  // that saturate a multiprocessor
constexpr std::int64_t kResidentThreads = 512;     // per multiprocessor, with up to 128 registers each
constexpr std::int64_t kMaxBlocks = 0x7fffffff, kMaxGridY = 65535;  // of a grid, in x and in y

// Limits of the current device, read at every launch because a process may use several devices.
struct DeviceLimits {
  int multiprocessors;
  int shared_memory;  // bytes per block, with opt-in
  bool cooperative;   // whether all blocks of a launch can be resident at once
};

inline DeviceLimits device_limits() {
#if defined(NEUROCUDA_EMULATED)
  const bool cooperative = true;  // launch_distributed emulates the grid barrier
#else
  const bool cooperative = attribute(cudaDevAttrCooperativeLaunch) != 0;
#endif
  return {attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
          cooperative};
}

// Bytes in flight from `neurons` neurons, each with `accesses` accesses of `bytes` bytes on average.
inline std::int64_t bytes_in_flight(std::int64_t neurons, int width, std::int64_t bytes,
                                    std::int64_t accesses, std::int64_t processors) {
  const std::int64_t threads = std::min(neurons / width, processors * kResidentThreads);
  return threads * std::min<std::int64_t>(stages_for(width), accesses) * width * bytes;
}

// Whether threads of `width` neurons saturate the device as well as staged threads would.
inline bool fills_device(std::int64_t neurons, int width, std::int64_t bytes, std::int64_t accesses) {
  const std::int64_t processors = attribute(cudaDevAttrMultiProcessorCount);
  const std::int64_t wide = bytes_in_flight(neurons, width, bytes, accesses, processors);
  const std::int64_t staged = bytes_in_flight(neurons, 1, bytes, accesses, processors);
  return 4 * wide >= 3 * std::min(staged, processors * kBytesInFlight);  // three quarters suffice
}

// Blocks for `count` items, `each` per block; at most `most`, whose kernel loops over the rest.
inline unsigned blocks_for(std::int64_t count, std::int64_t each, std::int64_t most = kMaxBlocks) {
  return static_cast<unsigned>(std::min((count + each - 1) / each, most));
}

// Blocks of a kernel that loops over tiles with a stride of gridDim.x.
inline unsigned grid_of(std::int64_t tiles) {
  std::int64_t most = kMaxBlocks;
#if defined(NEUROCUDA_EMULATED)
  most = emulation::setting("NEUROCUDA_EMULATION_BLOCKS", 0x7fffffff);  // lets tests run that loop
#endif
  return static_cast<unsigned>(std::min(tiles, most));
}

// Threads per block of staged kernels: a small population gets a warp on every multiprocessor first.
inline int staged_threads(std::int64_t neurons) {
  const std::int64_t processors = std::max(1, attribute(cudaDevAttrMultiProcessorCount));
  int threads = 32;
  while (threads < kStagedThreads && neurons > processors * threads) threads *= 2;
  return threads;
}

}  // namespace neurocuda::cuda
