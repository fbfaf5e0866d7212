// Questions about the values of tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace neurocuda {

// Whether two lists of tensors agree in shapes, strides, types and every bit. Tensors that share their memory
// do.
bool same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b);

// Whether every number is finite.
bool all_finite(const at::Tensor& tensor);

}  // namespace neurocuda
