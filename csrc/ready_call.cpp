#include "ready_call.h"

#include <string>
#include <utility>

#include "ops/layout.h"
#include "ops/memory.h"
#include "ops/neuron.h"
#include "ops/ready.h"
#include "ops/recurrent_neuron.h"

namespace neurocuda {
namespace {

using at::Tensor;
using Slots = std::vector<Tensor>;

// The arguments of a call by place.
struct Arguments {
  const Call& call;
  const Slots& slots;
  const Slots& constants;

  bool given(int at) const { return call.arguments[at].kind == Argument::Kind::kSlot; }
  int slot(int at) const { return given(at) ? call.arguments[at].slots[0] : -1; }
  const Tensor& tensor(int at) const { return slots[slot(at)]; }
  MaybeTensor maybe(int at) const { return given(at) ? MaybeTensor(tensor(at)) : MaybeTensor(); }
  const c10::IValue& value(int at) const { return call.arguments[at].value; }
  bool flag(int at) const { return value(at).toBool(); }
  // Those that do not come with each call, or are not there.
  bool constant(int first, int last) const {
    for (int at = first; at <= last; ++at) {
      if (given(at) && !constants[slot(at)].defined()) return false;
    }
    return true;
  }
  bool floats(int at) const {
    const auto type = value(at).toOptional<at::ScalarType>();
    return type.has_value() && *type == at::kFloat;
  }
};

// A copy of a state, or its own memory where that is spare.
Tensor own(const Call& call, int at, const Slots& slots) {
  const Argument& argument = call.arguments[at];
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

std::vector<Tensor> tensors(const std::vector<int>& chosen, const Slots& slots) {
  std::vector<Tensor> found;
  for (const int slot : chosen) found.push_back(slots[slot]);
  return found;
}

ReadyCall ready_neuron(const Arguments& a) {
  const Call& call = a.call;
  if (!a.constant(3, 9) || !a.floats(14) || a.flag(15) || a.flag(16) || a.flag(17)) return {};
  const std::vector<int> from = call.arguments[0].slots;
  const MaybeTensor i = a.maybe(2), decay_i = a.maybe(6), gain_i = a.maybe(7), threshold = a.maybe(8);
  const MaybeTensor v_reset = a.maybe(9);
  const Population population{a.tensor(1), i,       a.tensor(3), a.tensor(4), a.tensor(5), decay_i,   gain_i,
                              threshold,   v_reset, a.flag(10),  a.flag(11),  a.flag(12),  a.flag(13)};
  const auto ready = ReadyNeuron::of(tensors(from, a.slots), population);
  if (!ready) return {};
  std::vector<int> contiguous = from;
  contiguous.push_back(a.slot(1));
  if (i) contiguous.push_back(a.slot(2));
  return {std::move(contiguous),
          [ready = *ready, &call, from, synapse = i.has_value()](Slots& slots, std::atomic<bool>& finite) {
            const std::vector<const Tensor*> branches = pointers(from, slots);
            Tensor output = spare(call, call.arguments[0], slots);
            if (!output.defined()) output = pooled(branches[0]->sizes(), {}, at::kFloat);
            Tensor v = own(call, 1, slots), i = synapse ? own(call, 2, slots) : Tensor();
            ready(branches, output, v, synapse ? &i : nullptr, call.checks ? &finite : nullptr);
            slots[call.outputs[0]] = std::move(output);
            slots[call.outputs[1]] = std::move(v);
            slots[call.outputs[2]] = std::move(i);
          }};
}

ReadyCall ready_recurrence(const Arguments& a) {
  const Call& call = a.call;
  if (!a.constant(2, 3) || !a.constant(7, 13) || !a.constant(24, 24) || !a.floats(18)) return {};
  if (a.flag(19) || a.flag(20) || a.flag(21)) return {};
  const std::vector<int> from = call.arguments[0].slots;
  const MaybeTensor bias = a.maybe(3), i = a.maybe(5), decay_i = a.maybe(10), gain_i = a.maybe(11);
  const MaybeTensor threshold = a.maybe(12), v_reset = a.maybe(13), packed = a.maybe(24);
  const Population population{a.tensor(4), i,       a.tensor(7), a.tensor(8), a.tensor(9), decay_i,   gain_i,
                              threshold,   v_reset, a.flag(14),  a.flag(15),  a.flag(16),  a.flag(17)};
  const std::vector<Tensor> branches = tensors(from, a.slots);
  const Recurrence recurrence{branches, a.value(1).toInt(), a.tensor(2), bias, a.tensor(6), population};
  const auto ready = ReadyRecurrence::of(recurrence, packed);
  if (!ready) return {};
  std::vector<int> contiguous = from;
  for (const int at : {4, 6}) contiguous.push_back(a.slot(at));
  if (i) contiguous.push_back(a.slot(5));
  return {std::move(contiguous),
          [ready = *ready, &call, from, synapse = i.has_value()](Slots& slots, std::atomic<bool>&) {
            const std::vector<const Tensor*> branches = pointers(from, slots);
            Tensor output = pooled(branches[0]->sizes(), {}, at::kFloat);
            Tensor v = own(call, 4, slots), i = synapse ? own(call, 5, slots) : Tensor();
            Tensor spikes = own(call, 6, slots);
            ready(branches, output, v, synapse ? &i : nullptr, spikes);
            slots[call.outputs[0]] = std::move(output);
            slots[call.outputs[1]] = std::move(v);
            slots[call.outputs[2]] = std::move(i);
            slots[call.outputs[3]] = std::move(spikes);
          }};
}

ReadyCall ready_layer(const Call& call, int from, ReadyLayer layer) {
  if (!layer) return {};
  return {{from}, [layer = std::move(layer), from, to = call.outputs[0]](Slots& slots, std::atomic<bool>&) {
            slots[to] = layer(slots[from]);
          }};
}

}  // namespace

ReadyCall ready_call(const Call& call, const Slots& slots, const Slots& constants) {
  const Arguments a{call, slots, constants};
  const std::string& name = call.op.schema().name();
  if (!call.op.schema().overload_name().empty()) return {};
  if (name == "neurocuda::neuron") return ready_neuron(a);
  if (name == "neurocuda::recurrent_neuron") return ready_recurrence(a);
  const auto numbers = [&](int at) { return a.value(at).toIntVector(); };
  if (name == "neurocuda::ordered_linear" && a.constant(1, 3)) {
    return ready_layer(
        call, a.slot(0),
        ready_linear(a.tensor(0), a.tensor(1), a.maybe(2), a.maybe(3), a.value(4).toStringView()));
  }
  if (name == "neurocuda::ordered_conv" && a.constant(1, 2) && a.constant(7, 7)) {
    return ready_layer(call, a.slot(0),
                       ready_conv(a.tensor(0), a.tensor(1), a.maybe(2), numbers(3), numbers(4), numbers(5),
                                  a.value(6).toInt(), a.maybe(7), a.value(8).toStringView()));
  }
  return {};
}

}  // namespace neurocuda
