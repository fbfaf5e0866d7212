// A population over time as most are: one or two branches, side by side in memory, of types and with an
// output that networks have, nothing recorded, neighbours that share their coefficients. All of that is known
// when the kernel is compiled, so that a step takes a fifth of the instructions of the general kernels, and
// more threads fit. Whatever is otherwise runs there.
#pragma once

#include "cuda/coefficients.cuh"
#include "cuda/dispatch.cuh"
#include "cuda/launch_config.cuh"
#include "cuda/neuron_traits.h"
#include "cuda/signal.cuh"
#include "params/neuron.h"

namespace neurocuda::cuda {

// second: the type of the second branch; that of the first where there is one only, and `branches` is 1.
template <int width_, Element first_, Element second_, int branches_, Element output_, bool packed_>
struct PlainForm {
  static constexpr int width = width_, branches = branches_;
  static constexpr int steps = stages_for(width_);  // that are loaded before the first of them is used
  static constexpr Element first = first_, second = second_, output = output_;
  static constexpr bool packed = packed_;
  static constexpr int blocks =
      width_ == 1 ? 4 : 8;  // that a multiprocessor is to hold: 128 registers a thread, or 64
};

template <class Kind, class Form>
__global__ __launch_bounds__(kWideThreads,
                             Form::blocks) void neuron_plain(const __grid_constant__ NeuronParams call,
                                                             std::int64_t first_neuron,
                                                             std::int64_t last_neuron) {
  constexpr int width = Form::width;
  constexpr Synapse synapse = Kind::synapse;
  std::int64_t neuron = first_neuron + (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * width;
  const bool there = neuron < last_neuron;
  if (!there) {  // where bits are packed, it helps to put the last of them together
    if (!Form::packed) return;
    neuron = last_neuron - width;
  }
  const Signal &one = call.branches[0], &other = call.branches[Form::branches - 1];
  const char *from_one = one.data + neuron * size_of(Form::first),
             *from_other = other.data + neuron * size_of(Form::second);
  char* to = call.output.data + (Form::packed ? 0 : neuron * size_of(Form::output));
  char* const place_v = call.v.data + neuron * size_of(Element::kFloat32);
  char* const place_i = call.i.data + neuron * size_of(Element::kFloat32);
  float v[width], i[width] = {};
  load_state<width>(call.v_before, neuron, place_v, v);
  if (synapse != Synapse::kNone) load_state<width>(call.i_before, neuron, place_i, i);
  NeuronCoefficients c[1];
  coefficients_of<synapse, Kind::fires, Kind::reset>(call.coefficients, neuron, c);

  for (std::int64_t left = call.steps; left > 0; left -= Form::steps) {
    Raw<width> raw_one[Form::steps], raw_other[Form::steps];
#pragma unroll
    for (int step = 0; step < Form::steps; ++step) {
      if (step >= left) continue;
      load_bytes<width * size_of(Form::first)>(from_one, raw_one[step]);
      from_one += one.time_stride;
      if constexpr (Form::branches == 2) {
        load_bytes<width * size_of(Form::second)>(from_other, raw_other[step]);
        from_other += other.time_stride;
      }
    }
#pragma unroll
    for (int step = 0; step < Form::steps; ++step) {
      if (step >= left) continue;
      float x[width], emitted[width];
      take<width>(Form::first, raw_one[step], false, x);
      if constexpr (Form::branches == 2) take<width>(Form::second, raw_other[step], true, x);
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

// The forms that there are, for threads of `width` neurons: calls launch(PlainForm<...>()) with that of the
// call; false where it has none.
template <int width, class Launch>
bool with_form(const NeuronParams& call, const Launch& launch) {
  constexpr Element kF = Element::kFloat32, kH = Element::kFloat16, kB = Element::kBFloat16,
                    kU = Element::kUInt8;
  const Element first = call.branches[0].type, second = call.branches[call.branch_count - 1].type;
  const Element output = call.output.type;
  const auto is = [&](Element of_first, Element of_second, int branches, Element of_output, bool packed) {
    return first == of_first && second == of_second && call.branch_count == branches && output == of_output &&
           call.packed == packed;
  };
#define NEUROCUDA_FORM(...)                  \
  if (is(__VA_ARGS__)) {                     \
    launch(PlainForm<width, __VA_ARGS__>()); \
    return true;                             \
  }
  if constexpr (width == 4) {  // the rest of the types come eight at a time
    NEUROCUDA_FORM(kF, kF, 1, kF, false)
    NEUROCUDA_FORM(kF, kF, 1, kU, false)
    NEUROCUDA_FORM(kF, kF, 1, kU, true)
    NEUROCUDA_FORM(kF, kF, 2, kF, false)
    NEUROCUDA_FORM(kF, kF, 2, kU, false)
    NEUROCUDA_FORM(kF, kU, 2, kF, false)  // spikes that go past an integer layer
    NEUROCUDA_FORM(kF, kU, 2, kU, false)
    NEUROCUDA_FORM(kU, kF, 2, kF, false)
    NEUROCUDA_FORM(kU, kF, 2, kU, false)
  } else if constexpr (width == 8) {
    NEUROCUDA_FORM(kH, kH, 1, kH, false)
    NEUROCUDA_FORM(kH, kH, 1, kU, false)
    NEUROCUDA_FORM(kH, kH, 1, kU, true)
    NEUROCUDA_FORM(kB, kB, 1, kB, false)
    NEUROCUDA_FORM(kB, kB, 1, kU, false)
    NEUROCUDA_FORM(kB, kB, 1, kU, true)
    NEUROCUDA_FORM(kU, kU, 1, kU, false)
    NEUROCUDA_FORM(kU, kU, 1, kU, true)
  } else {  // where neurons are few
    NEUROCUDA_FORM(kF, kF, 1, kF, false)
    NEUROCUDA_FORM(kF, kF, 1, kU, false)
    NEUROCUDA_FORM(kF, kF, 2, kF, false)
    NEUROCUDA_FORM(kF, kF, 2, kU, false)
    NEUROCUDA_FORM(kH, kH, 1, kH, false)
    NEUROCUDA_FORM(kB, kB, 1, kB, false)
  }
#undef NEUROCUDA_FORM
  return false;
}

// The kinds that networks are made of.
template <class Kind>
constexpr bool is_plain =
    (Kind::synapse == Synapse::kNone || Kind::synapse == Synapse::kUpdated) &&
    (Kind::fires == Fires::kAbove || Kind::fires == Fires::kReaching) && Kind::reset != Reset::kFeedback;

template <int width>
bool launch_plain_of(const NeuronParams& call, std::int64_t first, std::int64_t last, Stream stream) {
  bool launched = false;
  with_kind(call.kind, [&](auto kind) {
    using Kind = decltype(kind);
    if constexpr (is_plain<Kind>) {
      launched = with_form<width>(call, [&](auto form) {
        using Form = decltype(form);
        const int threads = width == 1 ? staged_threads(last - first) : kWideThreads;
        const unsigned blocks = blocks_for((last - first) / width, threads);
        NEUROCUDA_LAUNCH((neuron_plain<Kind, Form>), blocks, threads, 0, stream, call, first, last);
      });
    }
  });
  return launched;
}

inline bool side_by_side(const NeuronParams& call) {
  for (int branch = 0; branch < call.branch_count; ++branch) {
    if (!call.branches[branch].dense) return false;
  }
  return call.v.dense && call.i.dense && (call.packed || call.output.dense);
}

inline bool launch_plain(const NeuronParams& call, int width, std::int64_t first, std::int64_t last,
                         Stream stream) {
  const bool plain = call.trace_v.data == nullptr && call.trace_i.data == nullptr && side_by_side(call);
  if (!plain || call.branch_count > 2) return false;
  return width == 4   ? launch_plain_of<4>(call, first, last, stream)
         : width == 8 ? launch_plain_of<8>(call, first, last, stream)
                      : launch_plain_of<1>(call, first, last, stream);
}

}  // namespace neurocuda::cuda
