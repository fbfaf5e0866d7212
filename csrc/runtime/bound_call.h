// Binds a recorded call to fixed sizes.
#pragma once

#include <vector>

#include "runtime/op_call.h"

namespace neurocuda {

// Binds a call. `slots`: the tensors before the call; `constants`: those of the program, which never move.
// `run` is empty if the operator is not a native one, or has options that a bound call does not support.
BoundCall bound_call(const Call& call, const std::vector<at::Tensor>& slots,
                     const std::vector<at::Tensor>& constants);

}  // namespace neurocuda
