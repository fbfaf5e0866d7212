// Gradients of operators in boxed form: one autograd function for all of them, and a formula for each.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "ops/boxed.h"

namespace neurocuda {

// A backward pass through one call of an operator.
struct Backward {
  Boxed saved;                               // by `Formula::save`
  const std::vector<at::Tensor>& gradients;  // of the results; undefined where none arrived
  std::vector<bool> needed;  // by argument: whether it, or a tensor of a list, needs a gradient
};

struct Formula {
  // The values that the backward pass reads, as many as tensors of the saved ones stay alive until then.
  std::vector<c10::IValue> (*save)(Boxed arguments);

  // Which results have a gradient if they are floating point. Raises where the call has none. Null: all.
  std::vector<bool> (*differentiable)(Boxed arguments);

  // A gradient for each argument, the same for all tensors of a list; undefined where it is not needed, and
  // after the last.
  std::vector<at::Tensor> (*backward)(const Backward& pass);
};

// The boxed kernel of an operator for the key Autograd. `formula` has one for each name.
void with_gradient(const c10::OperatorHandle& op, torch::jit::Stack* stack);

}  // namespace neurocuda
