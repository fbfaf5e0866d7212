// Spikes as bits and back, on the CPU.
#pragma once

#include <cstdint>

#include "params/pack.h"

namespace neurocuda::cpu {

// Steps first .. last - 1.
void pack_spikes(const PackParams& params, std::int64_t first, std::int64_t last);
void unpack_spikes(const PackParams& params, std::int64_t first, std::int64_t last);

}  // namespace neurocuda::cpu
