#include "runtime/op_call.h"

#include <algorithm>

namespace neurocuda {

at::Tensor spare(const Call& call, const Argument& argument, const std::vector<at::Tensor>& slots) {
  for (const int slot : argument.slots) {
    const at::Tensor& tensor = slots[slot];
    const bool last = std::find(call.spent.begin(), call.spent.end(), slot) != call.spent.end();
    if (last && tensor.use_count() == 1 && tensor.storage().use_count() == 1) return tensor;
  }
  return {};
}

void fill(const Call& call, const std::vector<at::Tensor>& slots, std::vector<c10::IValue>& stack) {
  stack.clear();
  for (const Argument& argument : call.arguments) {
    if (argument.kind == Argument::Kind::kValue) {
      stack.push_back(argument.value);
    } else if (argument.kind == Argument::Kind::kSlot) {
      stack.emplace_back(slots[argument.slots[0]]);
    } else {
      c10::List<at::Tensor> list;
      list.reserve(argument.slots.size());
      for (const int slot : argument.slots) list.push_back(slots[slot]);
      stack.emplace_back(std::move(list));
    }
  }
}

}  // namespace neurocuda
