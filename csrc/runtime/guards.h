// What a cached call checks before its results count.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "ops/checks.h"

namespace neurocuda {

// What a call rests on: tensors whose bits are as they were, weights on the CPU that are int8 numbers times
// steps, and a signal on grids.
struct Guards {
  struct Grid {
    double step, low, high;
  };
  std::vector<at::Tensor> now, then, weights, numbers, steps;
  std::vector<Grid> grids;

  void ask(const at::Tensor& signal, Answer& answer) const;
};

}  // namespace neurocuda
