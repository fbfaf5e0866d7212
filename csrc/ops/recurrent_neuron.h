// The arguments that recurrent_neuron and its gradient share.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "ops/neuron.h"
#include "params/recurrent_neuron.h"

namespace neurocuda {

// A population [B, *batch, N] and the matrices [*batch, N, N] through which its spikes come back to it.
struct Recurrence {
  std::vector<at::Tensor> branches;
  std::int64_t place;
  at::Tensor weight, bias;  // the bias undefined where there is none
  at::Tensor spikes;        // of the step before the first
  NeuronArgs neurons;

  // From a call of an operator: its arguments start with these.
  static Recurrence of(Boxed arguments);
  static constexpr int kArguments = 20;

  // Raises ValueError unless everything fits.
  void check(const char* op) const;
};

// output, v, i, spikes, traces of v, i and the recurrent current
using RecurrentOutputs = std::array<at::Tensor, 7>;

struct RecurrentResults {
  std::optional<at::ScalarType> dtype;
  bool trace_v, trace_i, trace_recurrent;
};

// The operator without checks, on tensors with values. `prepacked`, if defined, is
// ordered_linear_prepack(weight). Results that are not requested are undefined.
RecurrentOutputs run_recurrence(const Recurrence& recurrence, const RecurrentResults& results,
                                const at::Tensor& prepacked);

// A recurrence whose sizes do not change, as `BoundNeuron`; `prepacked` is the weight's.
class BoundRecurrence {
 public:
  static std::optional<BoundRecurrence> of(const Recurrence& recurrence, const at::Tensor& prepacked);

  // Fills the output and brings v, i (where there is one) and the spikes to the state after the last step.
  void operator()(const std::vector<const at::Tensor*>& branches, const at::Tensor& output,
                  const at::Tensor& v, const at::Tensor* i, const at::Tensor& spikes) const;

 private:
  RecurrentParams params_;
};

}  // namespace neurocuda
