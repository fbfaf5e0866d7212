// Matrix products summed in ascending order of the input feature: one product, one sum at a time, bias last.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace neurocuda {

// The implementation of a sum; both have the same bits: every term, or only those whose input is not zero.
enum class Route { kMeasured, kDense, kEvents };

// Output features of a prepacked matrix, [in, padded_features(out)] with zeros at the end: rounded up to
// full vectors.
NEUROCUDA_HOST_DEVICE constexpr std::int64_t padded_features(std::int64_t features) {
  if (features <= 8) return features <= 4 ? 4 : 8;
  return (features + 15) / 16 * 16;
}

struct OrderedLinear {
  const void* x;           // [rows, batch, in], float or bytes
  bool bytes;              // x is uint8 or bool
  const float* prepacked;  // [batch, in, padded_features(out)]
  const float* bias;       // [batch, out] or null
  float* y;                // [rows, batch, out]
  std::int64_t rows, batch, in, out;
  Route route;
};

}  // namespace neurocuda
