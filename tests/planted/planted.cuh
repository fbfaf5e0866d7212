// Shared by the kernels with planted faults: each has one fault if `planted` is 1, and none if it is 0.
#pragma once

#include <stdexcept>

#include "cuda/device.cuh"

inline void expect(bool holds, const char* kernel) {
  if (!holds) throw std::logic_error(std::string(kernel) + ": a wrong result");
}
