// recurrent_neuron_backward: the gradients of `recurrent_neuron`, step by step backwards.

#include <ATen/ExpandUtils.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <array>
#include <vector>

#include "cpu/denormals.h"
#include "ops/operators.h"
#include "ops/recurrent_neuron.h"

namespace neurocuda {

namespace {

using at::Tensor;

// Gradients by what they go to; the branches share theirs.
enum Input {
  kToBranches,
  kToWeight,
  kToBias,
  kToV,
  kToI,
  kToSpikes,
  kToCoefficients,
  kInputs = kToCoefficients + kCoefficients
};

using RecurrentGradients = std::array<Tensor, kInputs>;
using RecurrentNeeds = std::array<bool, kInputs>;

Tensor sum(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() ? a : b;
  return a + b;
}

Tensor at_step(const Tensor& signal, std::int64_t step) {
  return signal.defined() ? signal.narrow(0, step, 1) : signal;
}

// From the states and currents of a second forward run. `of` are the gradients that arrive at the outputs.
RecurrentGradients backward_over_time(const Recurrence& r, SurrogateSlope surrogate,
                                      const RecurrentOutputs& of, const RecurrentNeeds& needed) {
  const bool synapse = r.neurons.has_synapse();
  const std::int64_t steps = r.branches[0].size(0);
  const auto [output, last_v, last_i, last_spikes, all_v, all_i, recurrent] =
      run_recurrence(r, {at::kFloat, true, synapse, true}, Tensor());
  const auto& [of_output, of_v, of_i, of_spikes, of_trace_v, of_trace_i, of_recurrent] = of;
  std::vector<Tensor> terms;
  for (const Tensor& branch : r.branches) terms.push_back(branch.to(at::kFloat));
  terms.insert(terms.begin() + r.place, recurrent);
  Tensor total = terms[0];
  for (std::size_t term = 1; term < terms.size(); ++term) total = total + terms[term];

  NeedsGradient step_needed{true, true, synapse};
  for (int name = 0; name < kCoefficients; ++name) step_needed[3 + name] = needed[kToCoefficients + name];
  RecurrentGradients to;
  Tensor to_sum = at::zeros_like(total, at::MemoryFormat::Contiguous);
  const Tensor to_recurrent =
      of_recurrent.defined() ? of_recurrent.contiguous().clone() : at::zeros_like(to_sum);
  Tensor to_v = of_v, to_i = of_i, to_spikes = of_spikes;
  NeuronArgs before = r.neurons;
  for (std::int64_t step = steps - 1; step >= 0; --step) {
    before.v = step > 0 ? all_v.select(0, step - 1) : r.neurons.v;
    if (synapse) before.i = step > 0 ? all_i.select(0, step - 1) : r.neurons.i;
    const Tensor to_output =
        sum(at_step(of_output, step), to_spikes.defined() ? to_spikes.unsqueeze(0) : Tensor());
    const Tensor x = total.narrow(0, step, 1);
    const auto found = neuron_gradients(
        x, before, surrogate, {to_output, to_v, to_i, at_step(of_trace_v, step), at_step(of_trace_i, step)},
        step_needed);
    to_sum.select(0, step).copy_(found[0].select(0, 0));
    Tensor to_current = to_recurrent.select(0, step);
    to_current.add_(found[0].select(0, 0));
    to_spikes = at::matmul(to_current.unsqueeze(-2), r.weight).squeeze(-2);
    to_v = found[1];
    if (synapse) to_i = found[2];
    for (int name = 0; name < kCoefficients; ++name)
      to[kToCoefficients + name] = sum(to[kToCoefficients + name], found[3 + name]);
  }
  to[kToBranches] = to_sum;
  if (needed[kToWeight]) {
    const Tensor previous = at::cat({r.spikes.to(at::kFloat).unsqueeze(0), output}).narrow(0, 0, steps);
    to[kToWeight] = at::einsum("tn...o,tn...i->...oi", {to_recurrent, previous});
  }
  if (needed[kToBias] && r.bias.defined()) to[kToBias] = at::sum_to(to_recurrent, r.bias.sizes());
  to[kToV] = to_v;
  to[kToI] = to_i;
  to[kToSpikes] = to_spikes;
  return to;
}

}  // namespace

RecurrentGradients recurrent_neuron_backward(Boxed a) {
  const auto r = Recurrence::of(a);
  const auto surrogate = SurrogateSlope::of(a[20].toStringView(), a[21].toDouble());
  RecurrentOutputs arriving;
  for (std::size_t at = 0; at < arriving.size(); ++at) arriving[at] = optional_tensor(a[22 + at]);
  RecurrentNeeds needed;
  for (int at = 0; at < kInputs; ++at) needed[at] = a[29].toBoolList().get(at);
  r.check("recurrent_neuron_backward");
  const cpu::KeepSubnormals guard;  // some of the sums are those of torch
  RecurrentGradients to;
  if (!r.neurons.v.is_meta()) to = backward_over_time(r, surrogate, arriving, needed);
  std::array<const Tensor*, kInputs> inputs{&r.branches[0], &r.weight,    &r.bias,
                                            &r.neurons.v,   &r.neurons.i, &r.spikes};
  for (int name = 0; name < kCoefficients; ++name)
    inputs[kToCoefficients + name] = &r.neurons.coefficients[name];
  const auto options = r.neurons.v.options();
  for (int at = 0; at < kInputs; ++at) {
    if (!needed[at] || !inputs[at]->defined()) {
      to[at] = at::empty({0}, options);
    } else if (!to[at].defined()) {
      to[at] = at::zeros_symint(inputs[at]->sym_sizes(), options);
    } else {
      to[at] = to[at].contiguous();
    }
  }
  return to;
}

}  // namespace neurocuda
