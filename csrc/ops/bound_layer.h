// Layers bound to frames whose sizes do not change: their arguments were checked once.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "ops/boxed.h"
#include "ops/memory.h"

namespace neurocuda {

// Other values of x, of the same sizes and type, contiguous, to the result of the layer.
using BoundLayer = std::function<at::Tensor(const at::Tensor&)>;

// From the arguments of ordered_linear and ordered_conv. Null where one would be copied at each call, or is
// not on the CPU.
BoundLayer bound_linear(Boxed arguments);
BoundLayer bound_conv(Boxed arguments);

}  // namespace neurocuda
