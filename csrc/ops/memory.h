// Tensors in memory that is used again once they, their views and whatever autograd saved of them are gone.
#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/memory_pool.h"

namespace neurocuda {

// A CPU tensor without values; contiguous without strides.
at::Tensor pooled(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type);

}  // namespace neurocuda
