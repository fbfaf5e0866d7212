// A population over time: sums its branches and updates it in one pass.
#pragma once

#include <cstdint>

#include "neuron_update.h"
#include "params/coefficients.h"
#include "params/signal.h"

namespace neurocuda {

// Where the state before the first step lies: `values` of all neurons side by side, or one for all of them.
struct StateBefore {
  const float* values = nullptr;  // null: where the state is updated
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
  Signal trace_v, trace_i;  // float32, the state after every step; no data where not wanted
};

}  // namespace neurocuda
