// Sums of rows of a matrix, those of the inputs that are not zero.
#pragma once

#include <cstdint>

#include "cpu/vector.h"

namespace neurocuda::cpu {

// Adds the rows of `features` in the order given, `vectors` vectors of neighbouring columns of each. `values`
// of the features are null where all are 1: times 1 is exact, and left out.
template <int lanes, int vectors>
NEUROCUDA_INLINE void sum_events(const float* weight, std::int64_t pitch, const std::int32_t* features,
                                 const float* values, std::int64_t count, Vector<lanes> (&sum)[vectors]) {
  for (std::int64_t n = 0; n < count; ++n) {
    const float* row = weight + features[n] * pitch;
    if (values) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[v] = sum[v] + load<lanes>(row + v * lanes) * values[n];
    } else {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[v] = sum[v] + load<lanes>(row + v * lanes);
    }
  }
}

}  // namespace neurocuda::cpu
