// Gradients of operators in boxed form: one autograd function for all of them, and a formula for each.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "ops/boxed.h"

namespace neurocuda {

// A backward pass through one call of an operator.
struct Backward {
  Boxed saved;                               // the leading arguments, as `Formula` has them
  const std::vector<at::Tensor>& gradients;  // of the results; undefined where none arrived
  std::vector<bool> needed;  // by argument: whether it, or a tensor of a list, needs a gradient
};

struct Formula {
  std::size_t saved;    // leading arguments that the backward pass reads; their tensors stay alive until then
  bool shapes = false;  // it reads the sizes of tensors alone, and gets these in their place

  // A gradient for each argument, the same for all tensors of a list; undefined where it is not needed.
  std::vector<at::Tensor> (*backward)(const Backward& pass);

  // Which results have a gradient if they are floating point; null: all. Raises where the call has none.
  std::vector<bool> (*differentiable)(Boxed arguments) = nullptr;
};

// The boxed kernel of a differentiable operator for the dispatch key Autograd.
void with_gradient(const c10::OperatorHandle& op, torch::jit::Stack* stack);

}  // namespace neurocuda
