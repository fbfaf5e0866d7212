// A population over time, on the CPU.
#pragma once

#include <cstdint>

#include "calls/neuron.h"

namespace neurocuda::cpu {

// A range of neurons that threads share starts at multiples of this: whole bytes of bits, whole cache lines.
constexpr std::int64_t kNeuronGrain = 64;

// Runs neurons first .. last - 1 over all steps.
void neuron(const NeuronCall& call, std::int64_t first, std::int64_t last);

}  // namespace neurocuda::cpu
