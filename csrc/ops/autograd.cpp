// The autograd formulas of `neuron` and `branch_sum`.

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <vector>

#include "ops/neuron.h"

namespace neurocuda {
namespace {

using at::Tensor;

// What `neuron` takes, besides the tensors; these stand in one list: branches, v and the coefficients of v,
// then, where there is a synapse, i and the coefficients of i, then, where there are spikes, the threshold
// and v_reset.
struct Settings {
  std::int64_t branches;
  bool synapse, fires, reaching, subtract, previous, many;
  std::optional<at::ScalarType> dtype;
  bool packed, trace_v, trace_i;
  std::string surrogate;
  double slope;

  static constexpr int kV = 0, kDecayV = 1, kGainV = 2, kBiasV = 3, kI = 4, kDecayI = 5, kGainI = 6;
  static constexpr int kThreshold = 7, kVReset = 8;

  // Where a tensor stands in the list, -1 if it does not.
  std::int64_t place(int name) const {
    if (name <= kBiasV) return branches + name;
    if (name <= kGainI) return synapse ? branches + name : -1;
    return fires ? branches + name - (synapse ? 0 : 3) : -1;
  }

  template <class List>
  MaybeTensor find(const List& tensors, int name) const {
    return place(name) < 0 ? MaybeTensor() : MaybeTensor(tensors[place(name)]);
  }
};

// The operator, below autograd.
NeuronOutputs call_neuron(at::TensorList branches, const Tensor& v, const MaybeTensor& i,
                          const Tensor& decay_v, const Tensor& gain_v, const Tensor& bias_v,
                          const MaybeTensor& decay_i, const MaybeTensor& gain_i, const MaybeTensor& threshold,
                          const MaybeTensor& v_reset, const Settings& s) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("neurocuda::neuron", "").typed<decltype(neuron)>();
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(branches, v, i, decay_v, gain_v, bias_v, decay_i, gain_i, threshold, v_reset, s.reaching,
                 s.subtract, s.previous, s.many, s.dtype, s.packed, s.trace_v, s.trace_i, s.surrogate,
                 s.slope);
}

class NeuronFunction : public torch::autograd::Function<NeuronFunction> {
 public:
  static constexpr bool is_traceable = true;

  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context,
                                                at::TensorList tensors, const Settings& s) {
    surrogate_of(s.surrogate, s.slope);
    context->save_for_backward(tensors.vec());
    context->set_materialize_grads(false);
    context->saved_data["branches"] = s.branches;
    context->saved_data["synapse"] = s.synapse;
    context->saved_data["fires"] = s.fires;
    context->saved_data["reaching"] = s.reaching;
    context->saved_data["subtract"] = s.subtract;
    context->saved_data["previous"] = s.previous;
    context->saved_data["many"] = s.many;
    context->saved_data["surrogate"] = s.surrogate;
    context->saved_data["slope"] = s.slope;
    const auto [output, v, i, trace_v, trace_i] =
        call_neuron(tensors.slice(0, s.branches), tensors[s.place(Settings::kV)],
                    s.find(tensors, Settings::kI), tensors[s.place(Settings::kDecayV)],
                    tensors[s.place(Settings::kGainV)], tensors[s.place(Settings::kBiasV)],
                    s.find(tensors, Settings::kDecayI), s.find(tensors, Settings::kGainI),
                    s.find(tensors, Settings::kThreshold), s.find(tensors, Settings::kVReset), s);
    torch::autograd::variable_list constant;
    if (!at::isFloatingType(output.scalar_type())) constant.push_back(output);
    if (!s.synapse) constant.push_back(i);
    if (!s.trace_v) constant.push_back(trace_v);
    if (!s.trace_i || !s.synapse) constant.push_back(trace_i);
    context->mark_non_differentiable(constant);
    return {output, v, i, trace_v, trace_i};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    auto& data = context->saved_data;
    Settings s{};
    s.branches = data["branches"].toInt();
    s.synapse = data["synapse"].toBool();
    s.fires = data["fires"].toBool();
    const auto tensors = context->get_saved_variables();
    const std::vector<Tensor> branches(tensors.begin(), tensors.begin() + s.branches);
    const auto arriving = [&](int at) {
      return gradients[at].defined() ? MaybeTensor(gradients[at]) : MaybeTensor();
    };
    // In the order of what neuron_backward returns.
    static constexpr int kNames[] = {Settings::kV,     Settings::kI,         Settings::kDecayV,
                                     Settings::kGainV, Settings::kBiasV,     Settings::kDecayI,
                                     Settings::kGainI, Settings::kThreshold, Settings::kVReset};
    WantedGradients wanted{};
    for (std::int64_t branch = 0; branch < s.branches; ++branch) {
      wanted[0] = wanted[0] || context->needs_input_grad(branch);
    }
    for (int at = 1; at < kGradients; ++at) {
      const std::int64_t place = s.place(kNames[at - 1]);
      wanted[at] = place >= 0 && context->needs_input_grad(place);
    }
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("neurocuda::neuron_backward", "")
                               .typed<decltype(neuron_backward)>();
    const auto found = op.call(branches, tensors[s.place(Settings::kV)], s.find(tensors, Settings::kI),
                               tensors[s.place(Settings::kDecayV)], tensors[s.place(Settings::kGainV)],
                               tensors[s.place(Settings::kBiasV)], s.find(tensors, Settings::kDecayI),
                               s.find(tensors, Settings::kGainI), s.find(tensors, Settings::kThreshold),
                               s.find(tensors, Settings::kVReset), data["reaching"].toBool(),
                               data["subtract"].toBool(), data["previous"].toBool(), data["many"].toBool(),
                               data["surrogate"].toStringView(), data["slope"].toDouble(), arriving(0),
                               arriving(1), arriving(2), arriving(3), arriving(4), wanted);
    const auto leaving =
        std::apply([](const auto&... each) { return std::array<Tensor, kGradients>{each...}; }, found);
    torch::autograd::variable_list results(tensors.size() + 1);  // the last belongs to the settings
    for (std::int64_t branch = 0; branch < s.branches; ++branch) {
      if (context->needs_input_grad(branch)) results[branch] = leaving[0].to(branches[branch].scalar_type());
    }
    for (int at = 1; at < kGradients; ++at) {
      if (wanted[at]) results[s.place(kNames[at - 1])] = leaving[at];
    }
    return results;
  }
};

NeuronOutputs neuron_with_gradient(at::TensorList branches, const Tensor& v, const MaybeTensor& i,
                                   const Tensor& decay_v, const Tensor& gain_v, const Tensor& bias_v,
                                   const MaybeTensor& decay_i, const MaybeTensor& gain_i,
                                   const MaybeTensor& threshold, const MaybeTensor& v_reset, bool reaching,
                                   bool subtract, bool previous, bool many,
                                   std::optional<at::ScalarType> dtype, bool packed, bool trace_v,
                                   bool trace_i, c10::string_view surrogate, double slope) {
  const Settings s{static_cast<std::int64_t>(branches.size()),
                   gain_i.has_value(),
                   threshold.has_value(),
                   reaching,
                   subtract,
                   previous,
                   many,
                   dtype,
                   packed,
                   trace_v,
                   trace_i,
                   std::string(surrogate),
                   slope};
  std::vector<Tensor> tensors(branches.begin(), branches.end());
  tensors.insert(tensors.end(), {v, decay_v, gain_v, bias_v});
  for (const MaybeTensor* tensor : {&i, &decay_i, &gain_i, &threshold, &v_reset}) {
    if (tensor->has_value()) tensors.push_back(**tensor);
  }
  const bool needed =
      at::GradMode::is_enabled() &&
      std::any_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.requires_grad(); });
  TORCH_CHECK_NOT_IMPLEMENTED(
      !needed || !s.fires || v_reset.has_value(),
      "neuron: spikes that come back as current have no gradient here; run the cycle");
  const bool whole =
      i.has_value() == s.synapse && decay_i.has_value() == s.synapse && v_reset.has_value() == s.fires;
  if (!needed || !whole) {  // what is not whole is refused below
    return call_neuron(branches, v, i, decay_v, gain_v, bias_v, decay_i, gain_i, threshold, v_reset, s);
  }
  const auto outputs = NeuronFunction::apply(at::TensorList(tensors), s);
  return {outputs[0], outputs[1], outputs[2], outputs[3], outputs[4]};
}

class BranchSum : public torch::autograd::Function<BranchSum> {
 public:
  static constexpr bool is_traceable = true;

  static Tensor forward(torch::autograd::AutogradContext* context, at::TensorList branches) {
    std::vector<std::int64_t> types;
    for (const Tensor& branch : branches) types.push_back(static_cast<std::int64_t>(branch.scalar_type()));
    context->saved_data["types"] = types;
    return call(branches);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    torch::autograd::variable_list results;
    for (const std::int64_t type : context->saved_data["types"].toIntVector()) {
      const bool needed = context->needs_input_grad(results.size());
      results.push_back(needed ? gradients[0].to(static_cast<at::ScalarType>(type)) : Tensor());
    }
    return results;
  }

  // The operator, below autograd.
  static Tensor call(at::TensorList branches) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("neurocuda::branch_sum", "")
                               .typed<Tensor(at::TensorList)>();
    const at::AutoDispatchBelowADInplaceOrView guard;
    return op.call(branches);
  }
};

Tensor branch_sum_with_gradient(at::TensorList branches) {
  const bool needed =
      at::GradMode::is_enabled() &&
      std::any_of(branches.begin(), branches.end(), [](const Tensor& t) { return t.requires_grad(); });
  return needed ? BranchSum::apply(branches) : BranchSum::call(branches);
}

TORCH_LIBRARY_IMPL(neurocuda, Autograd, m) {
  m.impl("neuron", neuron_with_gradient);
  m.impl("neuron_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("branch_sum", branch_sum_with_gradient);
}

}  // namespace
}  // namespace neurocuda
