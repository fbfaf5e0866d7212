// A population over time: sums its branches and updates it in one pass.
#pragma once

#include <cstdint>

#include "cpu/coefficients.h"
#include "cpu/signal.h"
#include "neuron_update.h"

namespace neurocuda::cpu {

struct NeuronCall {
  NeuronKind kind;
  std::int64_t steps;
  int branch_count;
  Signal branches[kMaxBranches];
  Coefficient coefficients[kCoefficients];
  Signal v, i;    // float32, updated in place; i only where there is a synapse
  Signal output;  // any element type; where packed, rows of bytes that hold eight neurons each
  bool packed;
  Signal trace_v, trace_i;  // float32, the state after every step; no data where not wanted
};

// A range of neurons that threads share starts at multiples of this: whole bytes of bits, whole cache lines.
constexpr std::int64_t kNeuronGrain = 64;

// Runs neurons first .. last - 1 over all steps.
void neuron(const NeuronCall& call, std::int64_t first, std::int64_t last);

}  // namespace neurocuda::cpu
