// Operators as functions of boxed arguments: their schemas alone spell the arguments out.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <type_traits>
#include <utility>

namespace neurocuda {

// The arguments of a call, in the order of its schema.
using Boxed = c10::ArrayRef<c10::IValue>;

// An optional tensor: undefined where it is None.
inline at::Tensor optional_tensor(const c10::IValue& value) {
  return value.isNone() ? at::Tensor() : value.toTensor();
}

// The reverse.
inline c10::IValue boxed_optional(const at::Tensor& tensor) {
  return tensor.defined() ? c10::IValue(tensor) : c10::IValue();
}

// A boxed kernel that calls `function`, which returns a tensor or an array of tensors.
template <auto function>
void boxed_kernel(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::size_t count = op.schema().arguments().size();
  auto results = function(torch::jit::last(*stack, count));
  torch::jit::drop(*stack, count);
  if constexpr (std::is_same_v<decltype(results), at::Tensor>) {
    stack->emplace_back(std::move(results));
  } else {
    for (at::Tensor& result : results) stack->emplace_back(std::move(result));
  }
}

}  // namespace neurocuda
