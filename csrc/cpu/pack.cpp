#include "cpu/pack.h"

#include <algorithm>

#include "cpu/denormals.h"
#include "cpu/elements.h"
#include "cpu/signal.h"

namespace neurocuda::cpu {

void pack_spikes(const PackParams& params, std::int64_t first, std::int64_t last) {
  const KeepSubnormals guard;
  alignas(64) float row[kBlock];
  for (std::int64_t step = first; step < last; ++step) {
    for (std::int64_t at = 0; at < params.neurons; at += kBlock) {
      const std::int64_t count = std::min(kBlock, params.neurons - at);
      read_row(params.spikes, step, at, count, row);
      write_bits(row, count, params.bits + step * params.stride + at / 8);
    }
  }
}

void unpack_spikes(const PackParams& params, std::int64_t first, std::int64_t last) {
  const KeepSubnormals guard;
  alignas(64) float row[kBlock];
  for (std::int64_t step = first; step < last; ++step) {
    for (std::int64_t at = 0; at < params.neurons; at += kBlock) {
      const std::int64_t count = std::min(kBlock, params.neurons - at);
      read_bits(params.bits + step * params.stride, at, count, row);
      write_row(params.spikes, step, at, count, row);
    }
  }
}

}  // namespace neurocuda::cpu
