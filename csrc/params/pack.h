// Spikes as bits, eight neurons a byte, and back.
#pragma once

#include <cstdint>

#include "params/signal.h"

namespace neurocuda {

// Rows of `neurons` spikes, and rows of (neurons + 7) / 8 bytes, `stride` bytes apart: the first
// neuron in the lowest bit, zeros after the last.
struct PackParams {
  std::int64_t steps, neurons, stride;
  Signal spikes;
  std::uint8_t* bits;
};

}  // namespace neurocuda
