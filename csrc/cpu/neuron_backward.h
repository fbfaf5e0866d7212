// The gradients of a population over time, on the CPU.
#pragma once

#include <cstdint>

#include "params/neuron_backward.h"

namespace neurocuda::cpu {

// Gradients of neurons first .. last - 1. Computes the forward pass once more, tile by tile, rather than
// reading potentials saved by it: the branches are at hand anyway, so the forward pass writes nothing more.
void neuron_backward(const NeuronBackwardParams& params, std::int64_t first, std::int64_t last);

}  // namespace neurocuda::cpu
