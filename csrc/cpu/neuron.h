// A population over time, on the CPU.
#pragma once

#include <atomic>
#include <cstdint>

#include "params/neuron.h"

namespace neurocuda::cpu {

// A range of neurons that threads share starts at multiples of this: whole bytes of bits, whole cache lines.
constexpr std::int64_t kNeuronGrain = 64;

// Runs neurons first .. last - 1 over all steps. With `finite`, which takes a single branch that is direct,
// it becomes false where a value of the branch is not.
void neuron(const NeuronParams& params, std::int64_t first, std::int64_t last, std::atomic<bool>* finite);

}  // namespace neurocuda::cpu
