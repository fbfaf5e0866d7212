#include "cuda/kernels.h"
#include "cuda/ordered_linear.cuh"

namespace neurocuda::cuda {

void ordered_linear(const OrderedLinear& layer, Stream stream) { launch_ordered_linear(layer, stream); }

}  // namespace neurocuda::cuda
