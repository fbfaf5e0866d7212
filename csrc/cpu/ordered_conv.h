// Convolutions summed in ascending order of input channel, kernel row, kernel column: one product, one sum at
// a time, bias last.
#pragma once

#include <cstdint>

#include "cpu/ordered_linear.h"

namespace neurocuda::cpu {

// One axis of space: sizes in elements, `pad` zeros before the first.
struct ConvAxis {
  std::int64_t in, out, kernel, stride, pad, dilation;
};

// [out, in / groups, *kernel] to [groups, in / groups, *kernel, padded_features(out / groups)].
void pack_conv(const float* weight, float* packed, std::int64_t groups, std::int64_t out, std::int64_t taps);

struct OrderedConv {
  const void* x;        // [frames, in, rows.in, columns.in], float or bytes
  bool bytes;           // x is uint8 or bool
  const float* packed;  // of pack_conv
  const float* bias;    // [out] or null
  float* y;             // [frames, out, rows.out, columns.out]
  std::int64_t groups, in, out;
  ConvAxis rows, columns;
  Route route;
};

// Frames begin..end.
void ordered_conv(const OrderedConv& layer, std::int64_t begin, std::int64_t end);

}  // namespace neurocuda::cpu
