// The sum of branches, on the CPU.
#pragma once

#include <cstdint>

#include "params/branch_sum.h"

namespace neurocuda::cpu {

// Sums neurons first .. last - 1 of all steps.
void branch_sum(const BranchSumParams& params, std::int64_t first, std::int64_t last);

}  // namespace neurocuda::cpu
