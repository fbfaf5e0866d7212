// The arguments that the operators on populations share: checked, and described to the kernels.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include <array>
#include <atomic>
#include <optional>
#include <vector>

#include "neuron_update.h"
#include "ops/boxed.h"
#include "ops/layout.h"
#include "params/coefficients.h"
#include "params/neuron.h"
#include "params/neuron_backward.h"

namespace neurocuda {

// A population: the state before the first step, [B, *shape], and float32 coefficients that broadcast against
// it. Undefined where there is none.
struct NeuronArgs {
  at::Tensor v, i;
  std::array<at::Tensor, kCoefficients> coefficients;  // by CoefficientName
  bool reaching, subtract, previous, many, late;

  // From a call whose argument `state` is v, then i, and `decay_v` the first of the coefficients; the flags
  // follow these.
  static NeuronArgs of(Boxed arguments, int state, int decay_v);

  // Spikes come back as the current of the next step: they need no value to reset to.
  bool feeds_back() const { return fires() && !coefficients[kVReset].defined(); }
  bool bounded() const { return coefficients[kVMin].defined(); }
  bool has_synapse() const { return coefficients[kDecayI].defined(); }
  bool fires() const { return coefficients[kThreshold].defined(); }
  NeuronKind kind() const;

  // Raises ValueError unless everything is there, float32, on the device of the branches, and of fitting
  // shape.
  void check(const char* op, at::TensorList branches) const;

  // The type of an output: `dtype`, by default that of the branches. Raises ValueError where values do not
  // fit.
  at::ScalarType output_type(const char* op, at::TensorList branches,
                             std::optional<at::ScalarType> dtype) const;
};

// Copies of the coefficients that cannot be read in place.
using Copies = std::array<at::Tensor, kCoefficients>;
bool any(const Copies& copies);

// Fills what the parameters of all kernels on populations have in common.
template <class Params>
void describe(at::TensorList branches, const NeuronArgs& neurons, const Order& order, Params& params,
              Copies& copies) {
  params.kind = neurons.kind();
  params.steps = branches[0].size(0);
  params.branch_count = static_cast<int>(branches.size());
  for (int branch = 0; branch < params.branch_count; ++branch) {
    params.branches[branch] = signal_of(branches[branch], true, order);
  }
  for (int name = 0; name < kCoefficients; ++name) {
    const at::Tensor& tensor = neurons.coefficients[name];
    if (tensor.defined())
      params.coefficients[name] = coefficient_of(tensor, neurons.v.dim(), order, copies[name]);
  }
}

// output, v, i, trace of v, trace of i
using NeuronOutputs = std::array<at::Tensor, 5>;

// Spare memory for the results of `neuron`, and a guard. Tensors that nothing reads after the call and nobody
// else holds: a branch for the output, v and i for the state after the last step; undefined where there are
// none. `finite`, unless null, becomes false if the only branch is not finite.
struct Recorded {
  at::Tensor output, v, i;
  std::atomic<bool>* finite = nullptr;
};

// `neuron` where a program calls it: absent results are undefined instead of empty.
NeuronOutputs recorded_neuron(const Recorded& recorded, Boxed arguments);

// `neuron` bound to the sizes of its arguments: float32 on the CPU, contiguous, one spike of a neuron is one
// element of the output.
class BoundNeuron {
 public:
  // Nothing if the arguments are not so, or a coefficient would be copied.
  static std::optional<BoundNeuron> of(at::TensorList branches, const NeuronArgs& neurons);

  // Fills the output and brings v and i (where there is one) to the state after the last step.
  void operator()(const std::vector<const at::Tensor*>& branches, const at::Tensor& output,
                  const at::Tensor& v, const at::Tensor* i, std::atomic<bool>* finite) const;

 private:
  NeuronParams params_;
};

// Of the branches (one for all), v, i and the coefficients.
constexpr int kGradients = 3 + kCoefficients;
using NeedsGradient = std::array<bool, kGradients>;
using NeuronGradients = std::array<at::Tensor, kGradients>;

struct SurrogateSlope {
  Surrogate surrogate;
  float scale;

  // Of that name and slope. Raises ValueError where there is none.
  static SurrogateSlope of(c10::string_view name, double slope);
};

// The gradients that are needed, from those that arrive at the outputs; undefined where there are none.
NeuronGradients neuron_gradients(at::TensorList branches, const NeuronArgs& neurons, SurrogateSlope surrogate,
                                 const NeuronOutputs& arriving, NeedsGradient needed);

// Neurons that one thread takes at a time, in units of cpu::kNeuronGrain, so that it has enough to do.
std::int64_t grain(std::int64_t steps);

}  // namespace neurocuda
