// Signals over time in memory of any strides, as rows of neurons in one common order.
#pragma once

#include <cstdint>

#include "params/elements.h"

namespace neurocuda {

constexpr int kMaxAxes = 16;
constexpr int kMaxBranches = 8;

// A tensor [T, *axes] as the kernels see it: neuron n of step t, where n counts the axes from slowest to
// fastest. Strides are in bytes; a time stride of zero is a signal that is constant in time.
struct Signal {
  char* data = nullptr;
  Element type = Element::kFloat32;
  bool dense = true;  // the neurons of a step are contiguous: `axes` is not needed
  int axes = 0;
  std::int64_t time_stride = 0;
  std::int64_t sizes[kMaxAxes];
  std::int64_t strides[kMaxAxes];

  // The neurons of a step from `first`, of a dense float32 signal.
  float* row(std::int64_t step, std::int64_t first) const {
    return reinterpret_cast<float*>(data + step * time_stride) + first;
  }
  bool direct() const { return dense && type == Element::kFloat32; }
};

}  // namespace neurocuda
