// What tensors are, apart from their values.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace neurocuda {

// Shapes, strides, types and devices of `tensors` and of `sources`, and where the memory of the latter
// begins: equal for two lists if and only if these are.
std::string kinds(const std::vector<at::Tensor>& tensors, const std::vector<at::Tensor>& sources);

}  // namespace neurocuda
