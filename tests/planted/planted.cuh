// Around faults: each stands in a kernel of its own, and is there if `planted` is 1, not if it is 0.
#pragma once

#include <stdexcept>

#include "cuda/device.cuh"

inline void expect(bool holds, const char* kernel) {
  if (!holds) throw std::logic_error(std::string(kernel) + ": a wrong result");
}
