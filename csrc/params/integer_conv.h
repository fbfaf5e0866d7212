// Convolutions of bytes: unsigned signals times signed weights, summed as integers.
#pragma once

#include <cstdint>

#include "params/ordered_conv.h"

namespace neurocuda {

constexpr std::int64_t kIntegerChannels = 16;  // the number of channels is a multiple
constexpr std::int64_t kIntegerTerms = 64;     // and the terms of a sum of it

struct IntegerConv {
  const std::uint8_t* x;      // [frames, rows.in, columns.in, channels]
  const std::int8_t* weight;  // [columns of all tiles, terms]: by kernel row, column, channel, then zeros
  const float* scale;         // [out]
  const float* bias;          // [out] or null
  float* y;                   // [frames, rows.out, columns.out, out]
  std::int64_t frames, channels, out, terms;
  ConvAxis rows, columns;
};

// The output channels of a tile, of which the rows of the weight are a multiple.
constexpr std::int64_t integer_tile(std::int64_t out) { return out > 64 ? 128 : 64; }

}  // namespace neurocuda
