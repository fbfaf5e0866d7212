#include "cuda/ordered_conv.cuh"

namespace neurocuda::cuda {

void ordered_conv(const OrderedConv& params, Stream stream) {
  if (params.bytes)
    launch_conv<std::uint8_t>(params, stream);
  else
    launch_conv<float>(params, stream);
}

}  // namespace neurocuda::cuda
