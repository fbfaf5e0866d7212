#include "cuda/ordered_linear.cuh"

namespace neurocuda::cuda {

void ordered_linear(const OrderedLinear& params, Stream stream) {
  if (params.bytes)
    launch_ordered(LinearLayer<std::uint8_t>(params), stream);
  else
    launch_ordered(LinearLayer<float>(params), stream);
}

}  // namespace neurocuda::cuda
