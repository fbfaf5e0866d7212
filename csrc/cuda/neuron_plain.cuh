// A population over time as most are: one or two branches of one type, side by side in memory, spikes of one
// type, nothing recorded, neighbours that share their coefficients. All of that is known when the kernel is
// compiled, so that a step takes a fifth of the instructions of `neuron_wide`, and more threads fit. Whatever
// is otherwise runs there.
#pragma once

#include "calls/neuron.h"
#include "cuda/coefficients.cuh"
#include "cuda/kinds.cuh"
#include "cuda/neuron_traits.h"
#include "cuda/plan.cuh"
#include "cuda/signal.cuh"

namespace neurocuda::cuda {

constexpr int kPlainSteps = 4;   // that are loaded before the first of them is used
constexpr int kPlainBlocks = 8;  // that a multiprocessor is to hold: 64 registers a thread

template <Element input_, Element output_, bool packed_, int branches_>
struct PlainForm {
  static constexpr Element input = input_, output = output_;
  static constexpr bool packed = packed_;
  static constexpr int branches = branches_, width = width_for(size_of(input_));
};

template <class Kind, class Form>
__global__ __launch_bounds__(kWideThreads,
                             kPlainBlocks) void neuron_plain(const __grid_constant__ NeuronCall call,
                                                             std::int64_t neurons) {
  constexpr int width = Form::width, bytes = width * static_cast<int>(size_of(Form::input));
  constexpr Synapse synapse = Kind::synapse;
  std::int64_t neuron = (std::int64_t{blockIdx.x} * kWideThreads + threadIdx.x) * width;
  const bool there = neuron < neurons;
  if (!there) {  // where bits are packed, it helps to put the last of them together
    if (!Form::packed) return;
    neuron = neurons - width;
  }
  const char* from[Form::branches];
#pragma unroll
  for (int branch = 0; branch < Form::branches; ++branch)
    from[branch] = call.branches[branch].data + neuron * size_of(Form::input);
  char* to = call.output.data + (Form::packed ? 0 : neuron * size_of(Form::output));
  char* const place_v = call.v.data + neuron * size_of(Element::kFloat32);
  char* const place_i = call.i.data + neuron * size_of(Element::kFloat32);
  float v[width], i[width] = {};
  load_floats<width>(place_v, v);
  if (synapse != Synapse::kNone) load_floats<width>(place_i, i);
  NeuronCoefficients c[1];
  coefficients_of<synapse, Kind::fires, Kind::reset>(call.coefficients, neuron, c);

  for (std::int64_t left = call.steps; left > 0; left -= kPlainSteps) {
    Raw<width> raw[kPlainSteps][Form::branches];
#pragma unroll
    for (int step = 0; step < kPlainSteps; ++step) {
      if (step >= left) continue;
#pragma unroll
      for (int branch = 0; branch < Form::branches; ++branch) {
        load_bytes<bytes>(from[branch], raw[step][branch]);
        from[branch] += call.branches[branch].time_stride;
      }
    }
#pragma unroll
    for (int step = 0; step < kPlainSteps; ++step) {
      if (step >= left) continue;
      float x[width], emitted[width];
#pragma unroll
      for (int branch = 0; branch < Form::branches; ++branch)
        take<width>(Form::input, raw[step][branch], branch > 0, x);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        NeuronState state{v[k], i[k]};
        float u;
        emitted[k] = update_neuron<synapse, Kind::fires, Kind::reset>(x[k], c[0], state, u);
        v[k] = state.v;
        i[k] = state.i;
      }
      if constexpr (Form::packed) {
        store_bits<width>(emitted, there, neuron, to);
      } else {
        store<width>(Form::output, emitted, to);
      }
      to += call.output.time_stride;
    }
  }
  if (!there) return;
  store_floats<width>(v, place_v);
  if (synapse != Synapse::kNone) store_floats<width>(i, place_i);
}

// Calls launch(PlainForm<...>()) with the form of a call; false where it has none.
template <Element input, Element output, bool packed, class Launch>
bool with_branches(int branches, const Launch& launch) {
  if (branches == 1) {
    launch(PlainForm<input, output, packed, 1>());
    return true;
  }
  if constexpr (!packed && input == Element::kFloat32) {  // residual sums
    if (branches == 2) {
      launch(PlainForm<input, output, packed, 2>());
      return true;
    }
  }
  return false;
}

template <Element input, class Launch>
bool with_output(const NeuronCall& call, const Launch& launch) {
  if (call.packed) return with_branches<input, Element::kUInt8, true>(call.branch_count, launch);
  if (call.output.type == Element::kUInt8)
    return with_branches<input, Element::kUInt8, false>(call.branch_count, launch);
  if constexpr (input != Element::kUInt8) {
    if (call.output.type == input) return with_branches<input, input, false>(call.branch_count, launch);
  }
  return false;
}

template <class Launch>
bool with_form(const NeuronCall& call, const Launch& launch) {
  if (call.trace_v.data != nullptr || call.trace_i.data != nullptr) return false;
  const Element input = call.branches[0].type;
  for (int branch = 1; branch < call.branch_count; ++branch) {
    if (call.branches[branch].type != input) return false;
  }
  switch (input) {
    case Element::kFloat32:
      return with_output<Element::kFloat32>(call, launch);
    case Element::kFloat16:
      return with_output<Element::kFloat16>(call, launch);
    case Element::kBFloat16:
      return with_output<Element::kBFloat16>(call, launch);
    case Element::kUInt8:
      return with_output<Element::kUInt8>(call, launch);
    case Element::kBool:
      return false;
  }
  return false;
}

// The kinds that networks are made of.
template <class Kind>
constexpr bool is_plain =
    (Kind::synapse == Synapse::kNone || Kind::synapse == Synapse::kUpdated) &&
    (Kind::fires == Fires::kAbove || Kind::fires == Fires::kReaching) && Kind::reset != Reset::kFeedback;

// Whether it launched a kernel for neurons 0 .. neurons - 1, of which a thread may take as many as fit into
// 16 bytes of a branch.
inline bool launch_plain(const NeuronCall& call, std::int64_t neurons, Stream stream) {
  bool launched = false;
  with_kind(call.kind, [&](auto kind) {
    using Kind = decltype(kind);
    if constexpr (is_plain<Kind>) {
      launched = with_form(call, [&](auto form) {
        using Form = decltype(form);
        const unsigned blocks = blocks_for(neurons / Form::width, kWideThreads);
        NEUROCUDA_LAUNCH((neuron_plain<Kind, Form>), blocks, kWideThreads, 0, stream, call, neurons);
      });
    }
  });
  return launched;
}

}  // namespace neurocuda::cuda
