// From a recorded call to one that is ready.
#pragma once

#include <vector>

#include "runtime/op_call.h"

namespace neurocuda {

// The call with its arguments in `slots`, as they are before it; what is defined in `constants` never moves.
// Without `run` where the call is not of an operator of ours, or asks for more than these give.
BoundCall bound_call(const Call& call, const std::vector<at::Tensor>& slots,
                     const std::vector<at::Tensor>& constants);

}  // namespace neurocuda
