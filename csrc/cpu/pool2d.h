// Sums and means of windows of images, on the CPU.
#pragma once

#include <cstdint>

#include "params/pool2d.h"

namespace neurocuda::cpu {

// Computes output rows first .. last - 1 of planes * rows.out.
void pool2d(const Pool2d& job, std::int64_t first, std::int64_t last);

}  // namespace neurocuda::cpu
