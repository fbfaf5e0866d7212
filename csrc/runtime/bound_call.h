// From a recorded call to one that is ready.
#pragma once

#include <vector>

#include "runtime/op_call.h"

namespace neurocuda {

// The call with its arguments in `slots`, as they are before it; what is defined in `constants` never moves.
// Without `run` where the operator is none of ours, or has options that a bound call does not support.
BoundCall bound_call(const Call& call, const std::vector<at::Tensor>& slots,
                     const std::vector<at::Tensor>& constants);

}  // namespace neurocuda
