// The gradients of a population over time, with a surrogate for the derivative of the spike.
#pragma once

#include <cstdint>

#include "neuron_update.h"
#include "params/coefficients.h"
#include "params/signal.h"

namespace neurocuda {

// The derivative of a spike at distance d from the threshold; `scale` is the slope a, for arctan pi a / 2.
enum class Surrogate {
  kFastSigmoid,  // 1 / (1 + a|d|)^2
  kArctan,       // 1 / (1 + (pi a d / 2)^2)
  kTriangle,     // max(0, 1 - a|d|)
};

// Steps that the CUDA kernels run backwards at a time.
constexpr int kBackwardSegment = 16;

struct NeuronBackwardParams {
  NeuronKind kind;
  Surrogate surrogate;
  float scale;
  std::int64_t steps, neurons;
  int branch_count;
  Signal branches[kMaxBranches];
  Coefficient coefficients[kCoefficients];
  Signal v, i;  // the state before the first step

  // For CUDA: memory for the state before every segment of steps but the first, [segments - 1, v and, where
  // there is a synapse or kind.general(), i, neurons].
  float* states = nullptr;

  // Gradients that arrive; no data where there are none.
  Signal of_output, of_v, of_i, of_trace_v, of_trace_i;

  // Gradients that leave, float32; no data where not requested. One serves all branches. Those of the
  // coefficients are sums over time for each neuron by itself, to be reduced to the shapes of the
  // coefficients.
  Signal to_branches, to_v, to_i;
  Signal to_coefficients[kCoefficients];
};

}  // namespace neurocuda
