// Spikes as bits, eight neurons a byte, and back.
#pragma once

#include <cstdint>

#include "cpu/signal.h"

namespace neurocuda::cpu {

// Rows of `neurons` spikes as rows of (neurons + 7) / 8 bytes, the first neuron in the lowest bit, zeros
// after the last.
void pack_spikes(const Signal& spikes, std::int64_t neurons, std::int64_t first_step, std::int64_t last_step,
                 std::uint8_t* bits);

// The reverse; rows of bits lie `stride` bytes apart.
void unpack_spikes(const std::uint8_t* bits, std::int64_t stride, std::int64_t neurons,
                   std::int64_t first_step, std::int64_t last_step, const Signal& spikes);

}  // namespace neurocuda::cpu
