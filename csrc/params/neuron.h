// A population over time: sums its branches and updates it in one pass.
#pragma once

#include <cstdint>

#include "neuron_update.h"
#include "params/coefficients.h"
#include "params/signal.h"

namespace neurocuda {

// The memory of the state before the first step: `values` of all neurons, contiguous, or one for all.
struct StateBefore {
  const float* values = nullptr;  // null: the memory where the state is updated
  bool one = false;
};

struct NeuronParams {
  NeuronKind kind;
  std::int64_t steps, neurons;
  int branch_count;
  Signal branches[kMaxBranches];
  Coefficient coefficients[kCoefficients];
  Signal v, i;                     // float32, updated in place; i only where there is a synapse
  StateBefore v_before, i_before;  // for CUDA's kernels alone
  Signal output;  // any element type; where packed, rows of bytes that hold eight neurons each
  bool packed;
  Signal trace_v, trace_i;  // float32, the state after every step; no data where not requested
};

}  // namespace neurocuda
