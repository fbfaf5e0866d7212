// recurrent_neuron_backward, and the autograd formula of `recurrent_neuron`.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/denormals.h"
#include "ops/on_device.h"
#include "ops/recurrent_neuron.h"

namespace neurocuda {

namespace {

using at::Tensor;

// What gradients go to, besides the branches; each at most one tensor.
enum Input {
  kWeight,
  kBias,
  kV,
  kI,
  kSpikes,
  kFirstCoefficient,
  kInputs = kFirstCoefficient + kCoefficients
};
// What gradients come from.
enum Output { kOutput, kLastV, kLastI, kLastSpikes, kTraceV, kTraceI, kTraceRecurrent, kOutputs };

using Wanted = std::array<bool, kInputs + 1>;  // the branches, which share theirs, and the inputs
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                             Tensor, Tensor, Tensor>;
using Flags = std::array<bool, 4>;  // reaching, subtract, previous, many

RecurrentOutputs call_forward(at::TensorList branches, std::int64_t place, const Recurrence& r,
                              const Flags& flags, std::optional<at::ScalarType> dtype, bool trace_v,
                              bool trace_i, bool trace_recurrent, c10::string_view surrogate, double slope,
                              const MaybeTensor& packed) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("neurocuda::recurrent_neuron", "")
                             .typed<decltype(recurrent_neuron)>();
  const Population& p = r.population;
  return op.call(branches, place, r.weight, r.bias, p.v, p.i, r.spikes, p.decay_v, p.gain_v, p.bias_v,
                 p.decay_i, p.gain_i, p.threshold, p.v_reset, flags[0], flags[1], flags[2], flags[3], dtype,
                 trace_v, trace_i, trace_recurrent, surrogate, slope, packed);
}

// The gradients of one step of the population: of its sum of inputs, the state before and the coefficients.
std::array<Tensor, kGradients> step_backward(const Tensor& x, const Tensor& v, const MaybeTensor& i,
                                             const Recurrence& r, const Flags& flags,
                                             c10::string_view surrogate, double slope,
                                             const std::array<MaybeTensor, 5>& arriving,
                                             const WantedGradients& wanted) {
  const Population& p = r.population;
  const auto results =
      neuron_backward({x}, v, i, p.decay_v, p.gain_v, p.bias_v, p.decay_i, p.gain_i, p.threshold, p.v_reset,
                      flags[0], flags[1], flags[2], flags[3], surrogate, slope, arriving[0], arriving[1],
                      arriving[2], arriving[3], arriving[4], wanted);
  return std::apply([](const auto&... each) { return std::array<Tensor, kGradients>{each...}; }, results);
}

MaybeTensor sum(const MaybeTensor& a, const MaybeTensor& b) {
  if (!a || !b) return a ? a : b;
  return *a + *b;
}

MaybeTensor at_step(const MaybeTensor& signal, std::int64_t step) {
  return signal ? MaybeTensor(signal->narrow(0, step, 1)) : MaybeTensor();
}

// Step by step backwards, from the states and currents of a second forward run.
std::array<Tensor, kInputs + 1> backward_over_time(const Recurrence& r, const Flags& flags,
                                                   c10::string_view surrogate, double slope,
                                                   const std::array<MaybeTensor, kOutputs>& of,
                                                   const Wanted& wanted) {
  const Population& p = r.population;
  const bool synapse = p.has_synapse();
  const std::int64_t steps = r.branches[0].size(0);
  const auto [output, last_v, last_i, last_spikes, all_v, all_i, recurrent] = call_forward(
      r.branches, r.place, r, flags, at::kFloat, true, synapse, true, surrogate, slope, MaybeTensor());
  std::vector<Tensor> terms;
  for (const Tensor& branch : r.branches) terms.push_back(branch.to(at::kFloat));
  terms.insert(terms.begin() + r.place, recurrent);
  Tensor total = terms[0];
  for (std::size_t term = 1; term < terms.size(); ++term) total = total + terms[term];

  WantedGradients step_wanted{true, true, synapse};
  for (int name = 0; name < kCoefficients; ++name)
    step_wanted[3 + name] = wanted[1 + kFirstCoefficient + name] && p.coefficient(name) != nullptr;
  std::array<Tensor, kInputs + 1> to;
  Tensor to_sum = at::zeros_like(total, at::MemoryFormat::Contiguous);
  Tensor to_recurrent =
      of[kTraceRecurrent] ? of[kTraceRecurrent]->contiguous().clone() : at::zeros_like(to_sum);
  MaybeTensor to_v = of[kLastV], to_i = of[kLastI], to_spikes = of[kLastSpikes];
  for (std::int64_t step = steps - 1; step >= 0; --step) {
    const Tensor v = step > 0 ? all_v.select(0, step - 1) : p.v;
    const MaybeTensor i = !synapse ? MaybeTensor() : step > 0 ? MaybeTensor(all_i.select(0, step - 1)) : p.i;
    const MaybeTensor of_output =
        sum(at_step(of[kOutput], step), to_spikes ? MaybeTensor(to_spikes->unsqueeze(0)) : MaybeTensor());
    const auto found = step_backward(
        total.narrow(0, step, 1), v, i, r, flags, surrogate, slope,
        {of_output, to_v, to_i, at_step(of[kTraceV], step), at_step(of[kTraceI], step)}, step_wanted);
    to_sum.select(0, step).copy_(found[0].select(0, 0));
    Tensor to_current = to_recurrent.select(0, step);
    to_current.add_(found[0].select(0, 0));
    to_spikes = at::matmul(to_current.unsqueeze(-2), r.weight).squeeze(-2);
    to_v = found[1];
    if (synapse) to_i = found[2];
    for (int name = 0; name < kCoefficients; ++name) {
      Tensor& sum_of = to[1 + kFirstCoefficient + name];
      if (step_wanted[3 + name]) sum_of = sum_of.defined() ? sum_of + found[3 + name] : found[3 + name];
    }
  }
  to[0] = to_sum;
  if (wanted[1 + kWeight]) {
    const Tensor before = at::cat({r.spikes.to(at::kFloat).unsqueeze(0), output}).narrow(0, 0, steps);
    to[1 + kWeight] = at::einsum("tn...o,tn...i->...oi", {to_recurrent, before});
  }
  if (wanted[1 + kBias] && r.bias) to[1 + kBias] = at::sum_to(to_recurrent, r.bias->sizes());
  to[1 + kV] = to_v.value_or(Tensor());
  to[1 + kI] = to_i.value_or(Tensor());
  to[1 + kSpikes] = to_spikes.value_or(Tensor());
  return to;
}

Gradients recurrent_neuron_backward(
    at::TensorList branches, std::int64_t place, const Tensor& weight, const MaybeTensor& bias,
    const Tensor& v, const MaybeTensor& i, const Tensor& spikes, const Tensor& decay_v, const Tensor& gain_v,
    const Tensor& bias_v, const MaybeTensor& decay_i, const MaybeTensor& gain_i, const MaybeTensor& threshold,
    const MaybeTensor& v_reset, bool reaching, bool subtract, bool previous, bool many,
    c10::string_view surrogate, double slope, const MaybeTensor& of_output, const MaybeTensor& of_v,
    const MaybeTensor& of_i, const MaybeTensor& of_spikes, const MaybeTensor& of_trace_v,
    const MaybeTensor& of_trace_i, const MaybeTensor& of_trace_recurrent, Wanted wanted) {
  const Population population{v,         i,       decay_v,  gain_v,   bias_v,   decay_i, gain_i,
                              threshold, v_reset, reaching, subtract, previous, many};
  const Recurrence r{branches, place, weight, bias, spikes, population};
  r.check("recurrent_neuron_backward");
  const cpu::KeepSubnormals guard;  // some of the sums are those of torch
  std::array<Tensor, kInputs + 1> to;
  if (!v.is_meta()) {
    to = backward_over_time(r, {reaching, subtract, previous, many}, surrogate, slope,
                            {of_output, of_v, of_i, of_spikes, of_trace_v, of_trace_i, of_trace_recurrent},
                            wanted);
  }
  for (int at = 0; at <= kInputs; ++at) {
    const auto input = [&]() -> const Tensor* {
      switch (at - 1) {
        case -1:
          return &branches[0];
        case kWeight:
          return &weight;
        case kBias:
          return bias ? &*bias : nullptr;
        case kV:
          return &v;
        case kI:
          return i ? &*i : nullptr;
        case kSpikes:
          return &spikes;
        default:
          return population.coefficient(at - 1 - kFirstCoefficient);
      }
    }();
    if (!wanted[at] || input == nullptr) {
      to[at] = at::empty({0}, v.options());
    } else if (!to[at].defined()) {
      to[at] = at::zeros_symint(input->sym_sizes(), v.options());
    } else {
      to[at] = to[at].contiguous();
    }
  }
  return std::tuple_cat(to);
}

// What `recurrent_neuron` takes besides the tensors. These stand in one list: the branches, then the inputs
// that are there, in their order.
struct Settings {
  std::int64_t branches, place;
  std::array<bool, kInputs> there;
  Flags flags;
  std::optional<at::ScalarType> dtype;
  bool trace_v, trace_i, trace_recurrent;
  std::string surrogate;
  double slope;
  MaybeTensor packed;

  std::int64_t place_of(int input) const {
    return there[input] ? branches + std::count(there.begin(), there.begin() + input, true) : -1;
  }
};

// The arguments, out of the list.
struct Arguments {
  std::vector<Tensor> branches;
  std::array<MaybeTensor, kInputs> inputs;
  Population population;
  Recurrence recurrence;

  template <class List>
  Arguments(const List& tensors, const Settings& s)
      : branches(tensors.begin(), tensors.begin() + s.branches),
        inputs(find(tensors, s)),
        population{*inputs[kV], inputs[kI], coefficient(0), coefficient(1), coefficient(2),
                   maybe(3),    maybe(4),   maybe(5),       maybe(6),       s.flags[0],
                   s.flags[1],  s.flags[2], s.flags[3]},
        recurrence{branches, s.place, *inputs[kWeight], inputs[kBias], *inputs[kSpikes], population} {}
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

 private:
  template <class List>
  static std::array<MaybeTensor, kInputs> find(const List& tensors, const Settings& s) {
    std::array<MaybeTensor, kInputs> inputs;
    for (int input = 0; input < kInputs; ++input)
      if (s.there[input]) inputs[input] = tensors[s.place_of(input)];
    return inputs;
  }
  const Tensor& coefficient(int name) const { return *inputs[kFirstCoefficient + name]; }
  const MaybeTensor& maybe(int name) const { return inputs[kFirstCoefficient + name]; }
};

class Gradient : public torch::autograd::Function<Gradient> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context,
                                                at::TensorList tensors, const Settings& s) {
    context->save_for_backward(tensors.vec());
    context->set_materialize_grads(false);
    context->saved_data["branches"] = s.branches;
    context->saved_data["place"] = s.place;
    context->saved_data["there"] = c10::List<bool>(at::ArrayRef<bool>(s.there.data(), kInputs));
    context->saved_data["flags"] = c10::List<bool>(at::ArrayRef<bool>(s.flags.data(), s.flags.size()));
    context->saved_data["surrogate"] = s.surrogate;
    context->saved_data["slope"] = s.slope;
    const Arguments arguments(tensors, s);
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto outputs =
        std::apply([](const auto&... each) { return torch::autograd::variable_list{each...}; },
                   call_forward(arguments.branches, s.place, arguments.recurrence, s.flags, s.dtype,
                                s.trace_v, s.trace_i, s.trace_recurrent, s.surrogate, s.slope, s.packed));
    const bool synapse = arguments.population.has_synapse();
    const std::array<bool, kOutputs> there{
        true, true, synapse, true, s.trace_v, s.trace_i && synapse, s.trace_recurrent};
    torch::autograd::variable_list constant;
    for (int output = 0; output < kOutputs; ++output) {
      if (!there[output] || !at::isFloatingType(outputs[output].scalar_type()))
        constant.push_back(outputs[output]);
    }
    context->mark_non_differentiable(constant);
    return outputs;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    auto& data = context->saved_data;
    Settings s{};
    s.branches = data["branches"].toInt();
    s.place = data["place"].toInt();
    const auto there = data["there"].toBoolList(), flags = data["flags"].toBoolList();
    for (int input = 0; input < kInputs; ++input) s.there[input] = there.get(input);
    for (std::size_t flag = 0; flag < s.flags.size(); ++flag) s.flags[flag] = flags.get(flag);
    const auto tensors = context->get_saved_variables();
    const Arguments arguments(tensors, s);
    const Recurrence& r = arguments.recurrence;
    const Population& p = arguments.population;
    const auto of = [&](int output) {
      return gradients[output].defined() ? MaybeTensor(gradients[output]) : MaybeTensor();
    };
    Wanted wanted{};
    for (std::int64_t branch = 0; branch < s.branches; ++branch)
      wanted[0] = wanted[0] || context->needs_input_grad(branch);
    for (int input = 0; input < kInputs; ++input)
      wanted[1 + input] = s.there[input] && context->needs_input_grad(s.place_of(input));
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("neurocuda::recurrent_neuron_backward", "")
                               .typed<decltype(recurrent_neuron_backward)>();
    const auto found =
        op.call(r.branches, s.place, r.weight, r.bias, p.v, p.i, r.spikes, p.decay_v, p.gain_v, p.bias_v,
                p.decay_i, p.gain_i, p.threshold, p.v_reset, s.flags[0], s.flags[1], s.flags[2], s.flags[3],
                data["surrogate"].toStringView(), data["slope"].toDouble(), of(kOutput), of(kLastV),
                of(kLastI), of(kLastSpikes), of(kTraceV), of(kTraceI), of(kTraceRecurrent), wanted);
    const auto leaving =
        std::apply([](const auto&... each) { return std::array<Tensor, kInputs + 1>{each...}; }, found);
    torch::autograd::variable_list results(tensors.size() + 1);  // the last belongs to the settings
    for (std::int64_t branch = 0; branch < s.branches; ++branch) {
      if (context->needs_input_grad(branch))
        results[branch] = leaving[0].to(arguments.branches[branch].scalar_type());
    }
    for (int input = 0; input < kInputs; ++input) {
      if (wanted[1 + input])
        results[s.place_of(input)] = leaving[1 + input].to(arguments.inputs[input]->scalar_type());
    }
    return results;
  }
};

RecurrentOutputs recurrent_neuron_with_gradient(
    at::TensorList branches, std::int64_t place, const Tensor& weight, const MaybeTensor& bias,
    const Tensor& v, const MaybeTensor& i, const Tensor& spikes, const Tensor& decay_v, const Tensor& gain_v,
    const Tensor& bias_v, const MaybeTensor& decay_i, const MaybeTensor& gain_i, const MaybeTensor& threshold,
    const MaybeTensor& v_reset, bool reaching, bool subtract, bool previous, bool many,
    std::optional<at::ScalarType> dtype, bool trace_v, bool trace_i, bool trace_recurrent,
    c10::string_view surrogate, double slope, const MaybeTensor& packed) {
  const Flags flags{reaching, subtract, previous, many};
  const Population population{v,         i,       decay_v,  gain_v,   bias_v,   decay_i, gain_i,
                              threshold, v_reset, reaching, subtract, previous, many};
  const Recurrence r{branches, place, weight, bias, spikes, population};
  r.check("recurrent_neuron");
  const MaybeTensor given[kInputs] = {weight, bias,   v,       i,      spikes,    decay_v,
                                      gain_v, bias_v, decay_i, gain_i, threshold, v_reset};
  Settings s{static_cast<std::int64_t>(branches.size()),
             place,
             {},
             flags,
             dtype,
             trace_v,
             trace_i,
             trace_recurrent,
             std::string(surrogate),
             slope,
             packed};
  std::vector<Tensor> tensors(branches.begin(), branches.end());
  for (int input = 0; input < kInputs; ++input) {
    s.there[input] = given[input].has_value();
    if (s.there[input]) tensors.push_back(*given[input]);
  }
  const bool needed =
      at::GradMode::is_enabled() &&
      std::any_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.requires_grad(); });
  if (!needed) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_forward(branches, place, r, flags, dtype, trace_v, trace_i, trace_recurrent, surrogate, slope,
                        packed);
  }
  const auto outputs = Gradient::apply(at::TensorList(tensors), s);
  return {outputs[0], outputs[1], outputs[2], outputs[3], outputs[4], outputs[5], outputs[6]};
}

TORCH_LIBRARY_FRAGMENT(neurocuda, m) {
  // of_*: the gradients that arrive at the outputs of `recurrent_neuron`. wanted: which of the results are
  // asked for; the others are empty. to_branches is that of every branch.
  m.def(
      "recurrent_neuron_backward(Tensor[] branches, int place, Tensor weight, Tensor? bias, Tensor v, "
      "Tensor? i, "
      "Tensor spikes, Tensor decay_v, Tensor gain_v, Tensor bias_v, Tensor? decay_i, Tensor? gain_i, "
      "Tensor? threshold, Tensor? v_reset, *, bool reaching=False, bool subtract=False, bool previous=False, "
      "bool many=False, str surrogate='fast-sigmoid', float slope=10., Tensor? of_output=None, Tensor? "
      "of_v=None, "
      "Tensor? of_i=None, Tensor? of_spikes=None, Tensor? of_trace_v=None, Tensor? of_trace_i=None, "
      "Tensor? of_trace_recurrent=None, bool[13] wanted) -> (Tensor to_branches, Tensor to_weight, Tensor "
      "to_bias, "
      "Tensor to_v, Tensor to_i, Tensor to_spikes, Tensor to_decay_v, Tensor to_gain_v, Tensor to_bias_v, "
      "Tensor to_decay_i, Tensor to_gain_i, Tensor to_threshold, Tensor to_v_reset)");
}

void implement(torch::Library& m) { m.impl("recurrent_neuron_backward", recurrent_neuron_backward); }

NEUROCUDA_IMPLEMENT(implement)
TORCH_LIBRARY_IMPL(neurocuda, Meta, m) { implement(m); }

TORCH_LIBRARY_IMPL(neurocuda, Autograd, m) {
  m.impl("recurrent_neuron", recurrent_neuron_with_gradient);
  m.impl("recurrent_neuron_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace

}  // namespace neurocuda
