// One recorded call of an operator, and the same call bound to fixed sizes.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

namespace neurocuda {

// An argument of a call: the tensor in a slot, the tensors in several, or a value.
struct Argument {
  enum class Kind { kSlot, kSlots, kValue } kind = Kind::kValue;
  std::vector<int> slots;
  c10::IValue value;
};

struct Call {
  c10::OperatorHandle op;
  std::vector<Argument> arguments;
  std::vector<int> outputs;  // a slot for each tensor it returns
  std::vector<int> spent;    // slots that no later call reads
  enum class Way {
    kDispatcher,
    kView,    // aten::view of a slot to `sizes`, without the dispatcher
    kNeuron,  // neurocuda::neuron, which may write into spent slots
  } way = Way::kDispatcher;
  std::vector<std::int64_t> sizes;
  bool checks = false;  // a kNeuron also checks that its only branch is finite
};

// A call of a native operator with fixed sizes, whose arguments were checked before. It requires the tensors
// in the slots `contiguous` to be contiguous, as they were.
struct BoundCall {
  std::vector<int> contiguous;
  std::function<void(std::vector<at::Tensor>& slots, std::atomic<bool>& finite)> run;
};

// A tensor that only its slot references and that no later call reads; undefined if there is none.
at::Tensor spare(const Call& call, const Argument& argument, const std::vector<at::Tensor>& slots);

// Replaces the stack by the arguments of the call.
void fill(const Call& call, const std::vector<at::Tensor>& slots, std::vector<c10::IValue>& stack);

}  // namespace neurocuda
