// A population whose spikes come back to it through a matrix, on the CPU.
#pragma once

#include <cstdint>

#include "params/recurrent_neuron.h"

namespace neurocuda::cpu {

// Runs samples first .. last - 1 over all steps.
void recurrent_neuron(const RecurrentParams& params, std::int64_t first, std::int64_t last);

}  // namespace neurocuda::cpu
