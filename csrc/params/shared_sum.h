// Sums over the neurons that share a value, such as the gradient of a coefficient over those that it serves.
#pragma once

#include <cstdint>

#include "params/signal.h"

namespace neurocuda {

// In float64, in an order that suits many threads and is the same on every device: the neurons
// that share a value, in the order of their memory, are summed in groups of so many, one after the other from
// zero, then the sums of the groups likewise, until one is left.
constexpr std::int64_t kSumGroup = 256;

struct SharedSumParams {
  const float* values;  // [neurons], in the order of their memory
  int axes;             // of the neurons, slowest first
  std::int64_t sizes[kMaxAxes];
  std::int64_t to_strides[kMaxAxes];  // in elements of `to`; zero along axes that are summed
  std::int64_t elements;              // of `to`, which is contiguous
  std::int64_t members;               // neurons that share one of them
  float* to;
  double* partial = nullptr;  // for CUDA: memory for `partial_sums` sums
};

constexpr std::int64_t groups_of(std::int64_t members) { return (members + kSumGroup - 1) / kSumGroup; }

// The sums of groups, and those of their groups: later ones take the place of the first.
constexpr std::int64_t partial_sums(std::int64_t elements, std::int64_t members) {
  const std::int64_t groups = groups_of(members);
  return groups <= 1 ? 0 : elements * (groups + groups_of(groups));
}

}  // namespace neurocuda
