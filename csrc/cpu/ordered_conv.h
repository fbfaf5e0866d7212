// Convolutions in a defined order, on the CPU.
#pragma once

#include <cstdint>

#include "calls/ordered_conv.h"

namespace neurocuda::cpu {

// [out, in / groups, *kernel] to [groups, in / groups, *kernel, padded_features(out / groups)].
void pack_conv(const float* weight, float* packed, std::int64_t groups, std::int64_t out, std::int64_t taps);

// Frames begin..end.
void ordered_conv(const OrderedConv& layer, std::int64_t begin, std::int64_t end);

}  // namespace neurocuda::cpu
