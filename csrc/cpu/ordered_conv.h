// Convolutions in a defined order, on the CPU.
#pragma once

#include <cstdint>

#include "params/ordered_conv.h"

namespace neurocuda::cpu {

// Frames begin..end.
void ordered_conv(const OrderedConv& layer, std::int64_t begin, std::int64_t end);

}  // namespace neurocuda::cpu
