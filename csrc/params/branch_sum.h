// The sum of branches alone, for targets that are not neurons.
#pragma once

#include <cstdint>

#include "params/signal.h"

namespace neurocuda {

struct BranchSumParams {
  std::int64_t steps, neurons;
  int branch_count;
  Signal branches[kMaxBranches];
  Signal output;  // float32
};

}  // namespace neurocuda
