#include "cpu/pack.h"

#include <algorithm>

#include "cpu/denormals.h"
#include "cpu/elements.h"
#include "cpu/signal.h"

namespace neurocuda::cpu {

void pack_spikes(const PackParams& call, std::int64_t first, std::int64_t last) {
  const KeepSubnormals guard;
  alignas(64) float row[kBlock];
  for (std::int64_t step = first; step < last; ++step) {
    for (std::int64_t at = 0; at < call.neurons; at += kBlock) {
      const std::int64_t count = std::min(kBlock, call.neurons - at);
      read_row(call.spikes, step, at, count, row);
      write_bits(row, count, call.bits + step * call.stride + at / 8);
    }
  }
}

void unpack_spikes(const PackParams& call, std::int64_t first, std::int64_t last) {
  const KeepSubnormals guard;
  alignas(64) float row[kBlock];
  for (std::int64_t step = first; step < last; ++step) {
    for (std::int64_t at = 0; at < call.neurons; at += kBlock) {
      const std::int64_t count = std::min(kBlock, call.neurons - at);
      read_bits(call.bits + step * call.stride, at, count, row);
      write_row(call.spikes, step, at, count, row);
    }
  }
}

}  // namespace neurocuda::cpu
