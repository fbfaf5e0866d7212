// Checks of values in memory. A kernel whose check fails writes 1 to `no`; others do not write.
#pragma once

#include <cstdint>

#include "params/elements.h"

namespace neurocuda {

// Whether every number is finite.
struct FiniteParams {
  const void* values;
  std::int64_t count;
  Element type;  // float32, float16 or bfloat16
  int* no;       // becomes 1
};

// Whether every number is a multiple of `step`, a power of two, from low to high.
struct OnGridParams {
  const float* values;
  std::int64_t count;
  float step, low, high;
  int* no;  // becomes 1
};

// Whether some pieces of memory hold the same bits as others.
struct SameBitsParams {
  static constexpr int kMost = 64;

  struct Pair {
    const void *a, *b;
    std::int64_t bytes;
  };

  int count;
  Pair pairs[kMost];
  int* no;  // becomes 1
};

}  // namespace neurocuda
