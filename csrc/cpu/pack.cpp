#include "cpu/pack.h"

#include <algorithm>

#include "cpu/denormals.h"

namespace neurocuda::cpu {

void pack_spikes(const Signal& spikes, std::int64_t neurons, std::int64_t first_step, std::int64_t last_step,
                 std::uint8_t* bits) {
  const KeepSubnormals guard;
  alignas(64) float row[kBlock];
  for (std::int64_t step = first_step; step < last_step; ++step) {
    for (std::int64_t at = 0; at < neurons; at += kBlock) {
      const std::int64_t count = std::min(kBlock, neurons - at);
      read_row(spikes, step, at, count, row);
      write_bits(row, count, bits + step * ((neurons + 7) / 8) + at / 8);
    }
  }
}

void unpack_spikes(const std::uint8_t* bits, std::int64_t stride, std::int64_t neurons,
                   std::int64_t first_step, std::int64_t last_step, const Signal& spikes) {
  const KeepSubnormals guard;
  alignas(64) float row[kBlock];
  for (std::int64_t step = first_step; step < last_step; ++step) {
    for (std::int64_t at = 0; at < neurons; at += kBlock) {
      const std::int64_t count = std::min(kBlock, neurons - at);
      read_bits(bits + step * stride, at, count, row);
      write_row(spikes, step, at, count, row);
    }
  }
}

}  // namespace neurocuda::cpu
