// What the operators on populations of neurons share: their arguments, checked and handed to the kernels.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include <array>
#include <atomic>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "neuron_update.h"
#include "ops/layout.h"
#include "params/coefficients.h"
#include "params/neuron.h"
#include "params/neuron_backward.h"

namespace neurocuda {

using MaybeTensor = std::optional<at::Tensor>;

// A population: the state before the first step, [B, *shape], and float32 coefficients that broadcast against
// it.
struct Population {
  const at::Tensor& v;
  const MaybeTensor& i;
  const at::Tensor& decay_v;
  const at::Tensor& gain_v;
  const at::Tensor& bias_v;
  const MaybeTensor& decay_i;
  const MaybeTensor& gain_i;
  const MaybeTensor& threshold;
  const MaybeTensor& v_reset;
  bool reaching, subtract, previous, many;

  // Spikes come back as the current of the next step: they need no value to reset to.
  bool feeds_back() const { return fires() && !v_reset.has_value(); }
  bool has_synapse() const { return decay_i.has_value(); }
  bool fires() const { return threshold.has_value(); }
  NeuronKind kind() const;

  // The coefficient of that name, or null.
  const at::Tensor* coefficient(int name) const;

  // Raises ValueError unless everything is there, float32, on the device of the branches, and of fitting
  // shape.
  void check(const char* op, at::TensorList branches) const;
};

// Of the coefficients that cannot be read in place.
using Copies = std::array<at::Tensor, kCoefficients>;
bool any(const Copies& copies);

// What the calls of all operators on populations have in common.
template <class Call>
void describe(at::TensorList branches, const Population& population, const Order& order, Call& call,
              Copies& copies) {
  call.kind = population.kind();
  call.steps = branches[0].size(0);
  call.branch_count = static_cast<int>(branches.size());
  for (int branch = 0; branch < call.branch_count; ++branch) {
    call.branches[branch] = signal_of(branches[branch], true, order);
  }
  for (int name = 0; name < kCoefficients; ++name) {
    const at::Tensor* tensor = population.coefficient(name);
    if (tensor == nullptr) continue;
    call.coefficients[name] = coefficient_of(*tensor, population.v.dim(), order, copies[name]);
  }
}

// output, v, i, trace of v, trace of i
using NeuronOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Of the branches (one for all), v, i and the coefficients.
constexpr int kGradients = 3 + kCoefficients;
using WantedGradients = std::array<bool, kGradients>;
using NeuronGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                   at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// A surrogate of that name and slope, and the factor of its distance from the threshold.
std::pair<Surrogate, float> surrogate_of(c10::string_view name, double slope);

// The operators, as their schemas have it.
NeuronOutputs neuron(at::TensorList branches, const at::Tensor& v, const MaybeTensor& i,
                     const at::Tensor& decay_v, const at::Tensor& gain_v, const at::Tensor& bias_v,
                     const MaybeTensor& decay_i, const MaybeTensor& gain_i, const MaybeTensor& threshold,
                     const MaybeTensor& v_reset, bool reaching, bool subtract, bool previous, bool many,
                     std::optional<at::ScalarType> dtype, bool packed, bool trace_v, bool trace_i,
                     c10::string_view surrogate, double slope);

// What a recorded program knows of a call. Tensors that nothing reads after it and nobody else holds, so that
// their memory may be written: a branch for the output, v and i for the state after the last step; undefined
// where there are none. `finite`, unless null, becomes false if the only branch is not finite.
struct Recorded {
  at::Tensor output, v, i;
  std::atomic<bool>* finite = nullptr;
  bool undefined = true;  // so is what was not asked for, instead of empty
};
NeuronOutputs recorded_neuron(const Recorded& recorded, at::TensorList branches, const at::Tensor& v,
                              const MaybeTensor& i, const at::Tensor& decay_v, const at::Tensor& gain_v,
                              const at::Tensor& bias_v, const MaybeTensor& decay_i, const MaybeTensor& gain_i,
                              const MaybeTensor& threshold, const MaybeTensor& v_reset, bool reaching,
                              bool subtract, bool previous, bool many, std::optional<at::ScalarType> dtype,
                              bool packed, bool trace_v, bool trace_i, c10::string_view surrogate,
                              double slope);

// A population and branches whose sizes do not change: what the arguments say was looked at once. All float32
// and contiguous on the CPU; one spike of a neuron is one element of the output.
class ReadyNeuron {
 public:
  // The arguments as the operator takes them. Nothing if they are of another kind, or a coefficient would be
  // copied.
  static std::optional<ReadyNeuron> of(at::TensorList branches, const Population& population);

  // Fills the output and brings v and i (where there is one) to the state after the last step.
  void operator()(const std::vector<const at::Tensor*>& branches, const at::Tensor& output,
                  const at::Tensor& v, const at::Tensor* i, std::atomic<bool>* finite) const;

 private:
  NeuronParams call_;
};

NeuronGradients neuron_backward(at::TensorList branches, const at::Tensor& v, const MaybeTensor& i,
                                const at::Tensor& decay_v, const at::Tensor& gain_v, const at::Tensor& bias_v,
                                const MaybeTensor& decay_i, const MaybeTensor& gain_i,
                                const MaybeTensor& threshold, const MaybeTensor& v_reset, bool reaching,
                                bool subtract, bool previous, bool many, c10::string_view surrogate,
                                double slope, const MaybeTensor& of_output, const MaybeTensor& of_v,
                                const MaybeTensor& of_i, const MaybeTensor& of_trace_v,
                                const MaybeTensor& of_trace_i, WantedGradients wanted);

// Neurons that one thread takes at a time, in units of cpu::kNeuronGrain, so that it has enough to do.
std::int64_t grain(std::int64_t steps);

}  // namespace neurocuda
