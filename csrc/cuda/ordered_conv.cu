#include "cuda/kernels.h"
#include "cuda/ordered_conv.cuh"

namespace neurocuda::cuda {

void ordered_conv(const OrderedConv& layer, Stream stream) { launch_ordered_conv(layer, stream); }

}  // namespace neurocuda::cuda
