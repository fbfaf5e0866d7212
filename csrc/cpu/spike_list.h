// Lists of the positions of spikes, or of any values that are not zero.
#pragma once

#include <cstdint>

namespace neurocuda::cpu {

constexpr int kListSlack = 16;  // entries after the last that may be written over

// The positions of the nonzero values among `count` from `from`, ascending, appended at `to` and counted from
// `first`; returns the new end. Subnormals are not zero; -0.0 is. `to` needs room for `count` + kListSlack
// more.
std::int32_t* append_nonzero(const float* from, std::int64_t count, std::int32_t first, std::int32_t* to);
std::int32_t* append_nonzero(const std::uint8_t* from, std::int64_t count, std::int32_t first,
                             std::int32_t* to);

}  // namespace neurocuda::cpu
