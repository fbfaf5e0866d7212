#pragma once

#include "params/shared_sum.h"

namespace neurocuda::cpu {

void shared_sum(const SharedSumParams& params);

}  // namespace neurocuda::cpu
