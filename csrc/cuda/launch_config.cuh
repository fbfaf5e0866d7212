// How many neurons a thread takes, and how many threads a block: the one place where launches are decided.
//
// A device is kept busy by bytes under way, as many as it moves in the time that an access takes: on an H100
// 3.35 TB/s * 0.7 us = 2.3 MB, 18 KB for each of 132 multiprocessors; on an A100 1.6 TB/s * 0.6 us = 0.9 MB,
// 9 KB for each of 108. A thread of `width` neurons has at most stages_for(width) accesses of `width`
// elements under way, and no more than there are:
//
//   float32, wide:    4 accesses of 16 bytes, 16 KB from 256 threads: 135,000 neurons on an H100
//   float32, staged: 16 accesses of  4 bytes, 16 KB from 256 threads:  34,000 neurons on an H100
//
// Wide threads make a quarter of the accesses, so they are taken wherever they keep about as many bytes under
// way as the device needs, or as many as staged threads would.
#pragma once

#include <algorithm>

#include "cuda/device.cuh"
#include "cuda/neuron_traits.h"

namespace neurocuda::cuda {

constexpr int kWideThreads = 128;
constexpr int kStagedThreads = 128;
constexpr std::int64_t kBytesUnderWay = 16 << 10;  // that keep a multiprocessor busy
constexpr std::int64_t kResidentThreads = 512;     // of a multiprocessor, with up to 128 registers each

// The bytes that `neurons` neurons keep under way; each makes `accesses` accesses of `bytes` on the average.
inline std::int64_t bytes_under_way(std::int64_t neurons, int width, std::int64_t bytes,
                                    std::int64_t accesses, std::int64_t processors) {
  const std::int64_t threads = std::min(neurons / width, processors * kResidentThreads);
  return threads * std::min<std::int64_t>(stages_for(width), accesses) * width * bytes;
}

// Whether threads of `width` neurons keep the device as busy as it can be.
inline bool fills_device(std::int64_t neurons, int width, std::int64_t bytes, std::int64_t accesses) {
  const std::int64_t processors = attribute(cudaDevAttrMultiProcessorCount);
  const std::int64_t wide = bytes_under_way(neurons, width, bytes, accesses, processors);
  const std::int64_t staged = bytes_under_way(neurons, 1, bytes, accesses, processors);
  return 4 * wide >= 3 * std::min(staged, processors * kBytesUnderWay);  // about as many
}

constexpr std::int64_t kMostBlocks = 0x7fffffff, kMostRows = 65535;  // of a grid, in x and in y

// Blocks that do `each` of `all`; at most `most`, which go on with the rest.
inline unsigned blocks_for(std::int64_t all, std::int64_t each, std::int64_t most = kMostBlocks) {
  return static_cast<unsigned>(std::min((all + each - 1) / each, most));
}

// Small populations are spread over all multiprocessors: a warp each before a block has several.
inline int staged_threads(std::int64_t neurons) {
  const std::int64_t processors = std::max(1, attribute(cudaDevAttrMultiProcessorCount));
  int threads = 32;
  while (threads < kStagedThreads && neurons > processors * threads) threads *= 2;
  return threads;
}

}  // namespace neurocuda::cuda
