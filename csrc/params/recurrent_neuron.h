// A population whose spikes come back to it through a matrix one step later: the whole loop over time.
#pragma once

#include <cstdint>

#include "neuron_update.h"
#include "params/coefficients.h"
#include "params/signal.h"

namespace neurocuda {

// A sample is one row of neurons with one matrix: sample s has matrix s % matrices and neurons from s *
// neurons.
struct RecurrentParams {
  NeuronKind kind;
  std::int64_t steps, samples, neurons, matrices;
  int branch_count;
  int place;  // of the recurrent current in the sum: before this branch
  Signal branches[kMaxBranches];
  Coefficient coefficients[kCoefficients];
  const float* prepacked;                    // [matrices, neurons, padded_features(neurons)], from -> to
  const float* bias;                         // [matrices, neurons] or null
  Signal v, i, previous;                     // updated in place; i only where there is a synapse
  Signal output;                             // any element type
  Signal trace_v, trace_i, trace_recurrent;  // float32, values of every step; no data where not requested
  void* scratch = nullptr;                   // device memory that a CUDA kernel works in
};

}  // namespace neurocuda
