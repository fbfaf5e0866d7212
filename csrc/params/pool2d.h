// Sums and means of windows of images.
#pragma once

#include <cstdint>

#include "params/elements.h"

namespace neurocuda {

struct PoolAxis {
  std::int64_t in, out, kernel, stride, pad;
};

// Images [planes, rows, columns, inner]: contiguous ones have a plane for each channel, and `inner` is one;
// of those with channels last `inner` is the number of channels. A window is summed row by row, from zero, in
// float32; elements outside of the image add nothing.
struct Pool2d {
  const char* x;
  Element type;
  float* y;
  std::int64_t planes, inner;
  PoolAxis rows, columns;
  float area;  // every sum is divided by it
};

}  // namespace neurocuda
