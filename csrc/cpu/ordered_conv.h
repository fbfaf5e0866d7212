// Convolutions in a defined order, on the CPU.
#pragma once

#include <cstdint>

#include "calls/ordered_conv.h"
#include "cpu/frame_order.h"

namespace neurocuda::cpu {

// The frames at places begin..end of the order.
void ordered_conv(const OrderedConv& layer, const FrameOrder& order, std::int64_t begin, std::int64_t end);

}  // namespace neurocuda::cpu
