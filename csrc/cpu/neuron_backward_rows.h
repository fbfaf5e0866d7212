// The loops over the neurons of a segment in one time step, forwards and backwards, for neuron_backward.
#pragma once

#include <cstdint>

#include "cpu/coefficients.h"
#include "params/neuron_backward.h"

namespace neurocuda::cpu {

// One step of a segment, forwards: the potential before the reset goes to u.
struct ForwardRow {
  const float* x;
  float* v;
  float* i;
  float* u;
  std::int64_t count;
};

// One step of a segment, backwards.
struct BackwardRow {
  const float *x, *v, *i;  // the input, and the state before the step
  const float* u;          // the potential before the reset; for kinds that are general()
  const float* spikes;
  const float* slope;      // gradient of the potential before the reset, through the spikes
  const float *a, *b, *c;  // gradients of the state v after the step, in the order of their sum; c is of the
                           // output, where that is the state
  const float* trace_i;
  float* dv;               // gradient of the state v: after the step, to be replaced by that before it
  float *di, *di_current;  // likewise of i: through its decay; where u uses the previous current, through u
  float* dx;
  float* sums[kCoefficients];
  std::int64_t count;
};

// Updates the state and stores the potential before the reset.
void replay_row(const NeuronKind& kind, const ForwardRow& row, const CoefficientRows& rows);

// Spikes, and the gradient that arrives at u through them: slope[k] = arriving[k] * derivative.
void differentiate_row(Surrogate surrogate, Fires fires, const float* u, const float* threshold,
                       const float* arriving, float scale, std::int64_t count, float* spikes, float* slope);

// The gradient of one step; of the coefficients too if `sums`, and always for kinds that are general().
void retreat_row(const NeuronKind& kind, bool sums, const BackwardRow& row, const CoefficientRows& rows);

}  // namespace neurocuda::cpu
