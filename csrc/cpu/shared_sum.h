#pragma once

#include "calls/shared_sum.h"

namespace neurocuda::cpu {

void shared_sum(const SharedSumCall& call);

}  // namespace neurocuda::cpu
