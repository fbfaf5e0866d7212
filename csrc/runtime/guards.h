// The conditions that a cached call relies on.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "ops/checks.h"

namespace neurocuda {

// Pairs of tensors that must have the same bits, weights on the CPU that must be int8 numbers times a scale
// for each output channel, and grids that the input must be on. A GPU checks them while it computes
// (`Answer`).
struct Guards {
  struct Grid {
    double spacing, low, high;
  };
  std::vector<at::Tensor> current, snapshot, weights, numbers, scales;
  std::vector<Grid> grids;

  void ask(const at::Tensor& input, Answer& answer) const;
};

}  // namespace neurocuda
