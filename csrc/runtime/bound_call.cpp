#include "runtime/bound_call.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include "ops/bound_layer.h"
#include "ops/layout.h"
#include "ops/memory.h"
#include "ops/neuron.h"
#include "ops/recurrent_neuron.h"

namespace neurocuda {
namespace {

using at::Tensor;
using Slots = std::vector<Tensor>;

// The arguments of a call by name.
struct Arguments {
  const Call& call;
  const Slots& slots;
  const Slots& constants;

  const Argument& at(const char* name) const { return call.arguments[place(name)]; }
  int place(const char* name) const {
    const auto found = call.op.schema().argumentIndexWithName(name);
    TORCH_INTERNAL_ASSERT(found.has_value(), name);
    return *found;
  }
  bool given(const char* name) const { return at(name).kind == Argument::Kind::kSlot; }
  int slot(const char* name) const { return at(name).slots[0]; }
  const c10::IValue& value(const char* name) const { return at(name).value; }
  bool flag(const char* name) const { return value(name).toBool(); }

  // Whether these tensors are constants of the program or absent.
  bool constant(std::initializer_list<const char*> names) const {
    return std::all_of(names.begin(), names.end(),
                       [&](const char* name) { return !given(name) || constants[slot(name)].defined(); });
  }
  // Whether the output is float32, and none of the flags `extras` is set.
  bool simple(std::initializer_list<const char*> extras) const {
    const auto type = value("dtype").toOptional<at::ScalarType>();
    return type == at::kFloat &&
           std::none_of(extras.begin(), extras.end(), [&](const char* name) { return flag(name); });
  }
};

bool constant_coefficients(const Arguments& a) {
  return a.constant({"decay_v", "gain_v", "bias_v", "decay_i", "gain_i", "threshold", "v_reset", "v_min"});
}

// The memory for a new state with the values of the old one: that of the old one if it is spare, or a copy.
Tensor own(const Call& call, const Argument& argument, const Slots& slots) {
  Tensor mine = spare(call, argument, slots);
  if (mine.defined()) return mine;
  const Tensor& before = slots[argument.slots[0]];
  mine = pooled(before.sizes(), {}, before.scalar_type());
  copy_state(before, mine);
  return mine;
}

std::vector<const Tensor*> pointers(const std::vector<int>& chosen, const Slots& slots) {
  std::vector<const Tensor*> found;
  found.reserve(chosen.size());
  for (const int slot : chosen) found.push_back(&slots[slot]);
  return found;
}

BoundCall ready_neuron(const Arguments& a, Boxed boxed) {
  if (!constant_coefficients(a) || !a.simple({"packed", "trace_v", "trace_i"})) return {};
  const Argument &from = a.at("branches"), &from_v = a.at("v"), &from_i = a.at("i");
  const NeuronArgs neurons = NeuronArgs::of(boxed, a.place("v"), a.place("decay_v"));
  const auto ready = BoundNeuron::of(boxed[0].toTensorVector(), neurons);
  if (!ready) return {};
  const bool synapse = neurons.has_synapse();
  std::vector<int> contiguous = from.slots;
  for (const Argument* state : {&from_v, &from_i}) {
    contiguous.insert(contiguous.end(), state->slots.begin(), state->slots.end());
  }
  const auto run = [ready = *ready, &call = a.call, &from, &from_v, &from_i, synapse](
                       Slots& slots, std::atomic<bool>& finite) {
    const std::vector<const Tensor*> branches = pointers(from.slots, slots);
    Tensor output = spare(call, from, slots);
    if (!output.defined()) output = pooled(branches[0]->sizes(), {}, at::kFloat);
    Tensor v = own(call, from_v, slots), i = synapse ? own(call, from_i, slots) : Tensor();
    ready(branches, output, v, synapse ? &i : nullptr, call.checks ? &finite : nullptr);
    slots[call.outputs[0]] = std::move(output);
    slots[call.outputs[1]] = std::move(v);
    slots[call.outputs[2]] = std::move(i);
  };
  return {std::move(contiguous), run};
}

BoundCall ready_recurrence(const Arguments& a, Boxed boxed) {
  if (!constant_coefficients(a) || !a.constant({"weight", "bias", "prepacked"})) return {};
  if (!a.simple({"trace_v", "trace_i", "trace_recurrent"})) return {};
  const Argument &from = a.at("branches"), &from_v = a.at("v"), &from_i = a.at("i"), &before = a.at("spikes");
  const auto recurrence = Recurrence::of(boxed);
  const auto ready = BoundRecurrence::of(recurrence, optional_tensor(boxed[a.place("prepacked")]));
  if (!ready) return {};
  const bool synapse = recurrence.neurons.has_synapse();
  std::vector<int> contiguous = from.slots;
  for (const Argument* state : {&from_v, &from_i, &before}) {
    contiguous.insert(contiguous.end(), state->slots.begin(), state->slots.end());
  }
  const auto run = [ready = *ready, &call = a.call, &from, &from_v, &from_i, &before, synapse](
                       Slots& slots, std::atomic<bool>&) {
    const std::vector<const Tensor*> branches = pointers(from.slots, slots);
    Tensor output = pooled(branches[0]->sizes(), {}, at::kFloat);
    Tensor v = own(call, from_v, slots), i = synapse ? own(call, from_i, slots) : Tensor();
    Tensor spikes = own(call, before, slots);
    ready(branches, output, v, synapse ? &i : nullptr, spikes);
    slots[call.outputs[0]] = std::move(output);
    slots[call.outputs[1]] = std::move(v);
    slots[call.outputs[2]] = std::move(i);
    slots[call.outputs[3]] = std::move(spikes);
  };
  return {std::move(contiguous), run};
}

BoundCall ready_layer(const Call& call, int from, BoundLayer layer) {
  if (!layer) return {};
  return {{from}, [layer = std::move(layer), from, to = call.outputs[0]](Slots& slots, std::atomic<bool>&) {
            slots[to] = layer(slots[from]);
          }};
}

}  // namespace

BoundCall bound_call(const Call& call, const Slots& slots, const Slots& constants) {
  const Arguments a{call, slots, constants};
  const std::string& name = call.op.schema().name();
  if (!call.op.schema().overload_name().empty()) return {};
  std::vector<c10::IValue> boxed;
  fill(call, slots, boxed);
  if (name == "neurocuda::neuron") return ready_neuron(a, boxed);
  if (name == "neurocuda::recurrent_neuron") return ready_recurrence(a, boxed);
  if (name == "neurocuda::ordered_linear" && a.constant({"weight", "bias", "prepacked"}))
    return ready_layer(call, a.slot("x"), bound_linear(boxed));
  if (name == "neurocuda::ordered_conv" && a.constant({"weight", "bias", "prepacked"}))
    return ready_layer(call, a.slot("x"), bound_conv(boxed));
  return {};
}

}  // namespace neurocuda
