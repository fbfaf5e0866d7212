// The coefficients of a population, as the kernels read them.
#pragma once

#include <cstdint>

namespace neurocuda {

enum CoefficientName { kDecayV, kGainV, kBiasV, kDecayI, kGainI, kThreshold, kVReset, kVMin, kCoefficients };

// Neuron n has values[(n / inner) % count]: one for all, one for each channel, or one for each neuron of a
// sample.
struct Coefficient {
  const float* values = nullptr;  // null where the neuron has no such coefficient
  std::int64_t inner = 1;
  std::int64_t count = 1;
};

}  // namespace neurocuda
