// Sums and means of windows of images.
#pragma once

#include <cstdint>

#include "cpu/elements.h"

namespace neurocuda::cpu {

struct PoolAxis {
  std::int64_t in, out, kernel, stride, pad;
};

// Images [planes, rows, columns, inner]: contiguous ones have a plane for each channel, and `inner` is one;
// of those with channels last `inner` is the number of channels.
struct Pool2d {
  const char* x;
  Element type;
  float* y;
  std::int64_t planes, inner;
  PoolAxis rows, columns;
  float area;  // every sum is divided by it
};

// Computes output rows first .. last - 1 of planes * rows.out. A window is summed row by row, from zero, in
// float32; what lies outside of the image adds nothing.
void pool2d(const Pool2d& job, std::int64_t first, std::int64_t last);

}  // namespace neurocuda::cpu
