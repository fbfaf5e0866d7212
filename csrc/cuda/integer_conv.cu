#include "cuda/integer_conv.cuh"

namespace neurocuda::cuda {

void integer_conv(const IntegerConv& call, Stream stream) { launch_integer_conv(call, stream); }

}  // namespace neurocuda::cuda
