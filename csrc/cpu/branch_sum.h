// The sum of branches alone, for targets that are not neurons.
#pragma once

#include <cstdint>

#include "cpu/signal.h"

namespace neurocuda::cpu {

struct BranchSumCall {
  std::int64_t steps;
  int branch_count;
  Signal branches[kMaxBranches];
  Signal output;  // float32
};

// Sums neurons first .. last - 1 of all steps.
void branch_sum(const BranchSumCall& call, std::int64_t first, std::int64_t last);

}  // namespace neurocuda::cpu
