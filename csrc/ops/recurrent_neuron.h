// What recurrent_neuron and its gradient share: the arguments.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "ops/neuron.h"
#include "params/recurrent_neuron.h"

namespace neurocuda {

// A population [B, *batch, N] and the matrices [*batch, N, N] through which its spikes come back to it.
struct Recurrence {
  at::TensorList branches;
  std::int64_t place;
  const at::Tensor& weight;
  const MaybeTensor& bias;
  const at::Tensor& spikes;  // of the step before the first
  const Population& population;

  // Raises ValueError unless everything fits.
  void check(const char* op) const;
};

// output, v, i, spikes, traces of v, i and the recurrent current
using RecurrentOutputs =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// A recurrence whose sizes do not change, as `ReadyNeuron`; `packed` is the weight's.
class ReadyRecurrence {
 public:
  static std::optional<ReadyRecurrence> of(const Recurrence& recurrence, const MaybeTensor& packed);

  // Fills the output and brings v, i (where there is one) and the spikes to the state after the last step.
  void operator()(const std::vector<const at::Tensor*>& branches, const at::Tensor& output,
                  const at::Tensor& v, const at::Tensor* i, const at::Tensor& spikes) const;

 private:
  RecurrentParams call_;
};

// The operator, as its schema has it.
RecurrentOutputs recurrent_neuron(
    at::TensorList branches, std::int64_t place, const at::Tensor& weight, const MaybeTensor& bias,
    const at::Tensor& v, const MaybeTensor& i, const at::Tensor& spikes, const at::Tensor& decay_v,
    const at::Tensor& gain_v, const at::Tensor& bias_v, const MaybeTensor& decay_i, const MaybeTensor& gain_i,
    const MaybeTensor& threshold, const MaybeTensor& v_reset, bool reaching, bool subtract, bool previous,
    bool many, std::optional<at::ScalarType> dtype, bool trace_v, bool trace_i, bool trace_recurrent,
    c10::string_view surrogate, double slope, const MaybeTensor& packed);

}  // namespace neurocuda
