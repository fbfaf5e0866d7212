#include "cuda/shared_sum.cuh"

namespace neurocuda::cuda {

void shared_sum(const SharedSumParams& call, Stream stream) { launch_shared_sum(call, stream); }

}  // namespace neurocuda::cuda
