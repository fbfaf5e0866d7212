#include "cuda/integer_conv.cuh"

namespace neurocuda::cuda {

void integer_conv(const IntegerConv& params, Stream stream) {
#if !defined(NEUROCUDA_EMULATED)
  if (attribute(cudaDevAttrComputeCapabilityMajor) < 8) {
    throw std::invalid_argument("x: expected it on a device of compute capability 8.0 or above");
  }
#endif
  if (integer_tile(params.out) == 64) {
    launch_integer_tiles<IntegerShape<1>>(params, stream);
  } else {
    launch_integer_tiles<IntegerShape<2>>(params, stream);
  }
}

}  // namespace neurocuda::cuda
