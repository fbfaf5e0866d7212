#include "cuda/pool2d.cuh"

namespace neurocuda::cuda {

void pool2d(const Pool2d& params, Stream stream) {
  switch (params.type) {
    case Element::kFloat32:
      return launch_pool2d<Element::kFloat32>(params, stream);
    case Element::kFloat16:
      return launch_pool2d<Element::kFloat16>(params, stream);
    case Element::kBFloat16:
      return launch_pool2d<Element::kBFloat16>(params, stream);
    case Element::kUInt8:
      return launch_pool2d<Element::kUInt8>(params, stream);
    case Element::kBool:
      return launch_pool2d<Element::kBool>(params, stream);
  }
}

}  // namespace neurocuda::cuda
