#include "cpu/branch_sum.h"

#include <algorithm>

#include "cpu/denormals.h"
#include "cpu/signal.h"

namespace neurocuda::cpu {

void branch_sum(const BranchSumParams& params, std::int64_t first, std::int64_t last) {
  const KeepSubnormals guard;
  alignas(64) float sum[kBlock];
  for (std::int64_t step = 0; step < params.steps; ++step) {
    for (std::int64_t at = first; at < last; at += kBlock) {
      const std::int64_t count = std::min(kBlock, last - at);
      sum_rows(params.branches, params.branch_count, step, at, count, sum);
      write_row(params.output, step, at, count, sum);
    }
  }
}

}  // namespace neurocuda::cpu
