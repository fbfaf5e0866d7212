#include "cuda/kernels.h"
#include "cuda/pool2d.cuh"

namespace neurocuda::cuda {

void pool2d(const Pool2d& job, Stream stream) { launch_pool2d(job, stream); }

}  // namespace neurocuda::cuda
