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

}  // namespace neurocuda
