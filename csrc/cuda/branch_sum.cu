#include "cuda/branch_sum.cuh"

namespace neurocuda::cuda {

void branch_sum(const BranchSumParams& call, Stream stream) { launch_branch_sum(call, stream); }

}  // namespace neurocuda::cuda
