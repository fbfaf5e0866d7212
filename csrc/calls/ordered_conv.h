// Convolutions summed in ascending order of input channel, kernel row, kernel column: one product, one sum at
// a time, bias last.
#pragma once

#include <cstdint>

#include "calls/ordered_linear.h"

namespace neurocuda {

// One axis of space: sizes in elements, `pad` zeros before the first.
struct ConvAxis {
  std::int64_t in, out, kernel, stride, pad, dilation;
};

struct OrderedConv {
  const void* x;        // [frames, in, rows.in, columns.in], float or bytes
  bool bytes;           // x is uint8 or bool
  const float* packed;  // [groups, in / groups, *kernel, padded_features(out / groups)]
  const float* bias;    // [out] or null
  float* y;             // [frames, out, rows.out, columns.out]
  std::int64_t frames, groups, in, out;
  ConvAxis rows, columns;
  Route route;
};

}  // namespace neurocuda
