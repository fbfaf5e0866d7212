// The kernels of neuron.cuh, specialized at compile time for the common case: one or two dense branches of
// common types, no recorded traces, and the same coefficients for the neighbouring neurons of a thread. A
// time step takes a fifth of the instructions of the general kernels, and more threads are resident. Parallel
// decomposition and memory traffic are the same.
#pragma once

#include "cuda/coefficients.cuh"
#include "cuda/dispatch.cuh"
#include "cuda/launch_config.cuh"
#include "cuda/neuron_traits.h"
#include "cuda/signal.cuh"
#include "params/neuron.h"

namespace neurocuda::cuda {

// The element types that a kernel is compiled for. With one branch, `second` is the same as `first`.
template <int width_, Element first_, Element second_, int branches_, Element output_, bool packed_>
struct PlainForm {
  static constexpr int width = width_, branches = branches_;
  static constexpr int steps = stages_for(width_);  // time steps loaded before the first is used
  static constexpr Element first = first_, second = second_, output = output_;
  static constexpr bool packed = packed_;
  static constexpr int blocks =
      width_ == 1 ? 4 : 8;  // resident per multiprocessor: 128 or 64 registers per thread
};

template <class Kind, class Form>
__global__ __launch_bounds__(kWideThreads,
                             Form::blocks) void neuron_plain(const __grid_constant__ NeuronParams params,
                                                             std::int64_t first_neuron,
                                                             std::int64_t last_neuron) {
  constexpr int width = Form::width;
  constexpr Synapse synapse = Kind::synapse;
  std::int64_t neuron = first_neuron + (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * width;
  const bool valid = neuron < last_neuron;
  if (!valid) {  // with packed bits, it stays for the warp operations
    if (!Form::packed) return;
    neuron = last_neuron - width;
  }
  const Signal &one = params.branches[0], &other = params.branches[Form::branches - 1];
  const char *from_one = one.data + neuron * size_of(Form::first),
             *from_other = other.data + neuron * size_of(Form::second);
  char* to = params.output.data + (Form::packed ? 0 : neuron * size_of(Form::output));
  char* const row_v = params.v.data + neuron * size_of(Element::kFloat32);
  char* const row_i = params.i.data + neuron * size_of(Element::kFloat32);
  float v[width], i[width] = {};
  load_state<width>(params.v_before, neuron, row_v, v);
  if (synapse != Synapse::kNone) load_state<width>(params.i_before, neuron, row_i, i);
  NeuronCoefficients c[1];
  coefficients_of<synapse, Kind::fires, Kind::reset>(params.coefficients, neuron, c);

  for (std::int64_t left = params.steps; left > 0; left -= Form::steps) {
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
      convert<width>(Form::first, raw_one[step], false, x);
      if constexpr (Form::branches == 2) convert<width>(Form::second, raw_other[step], true, x);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        NeuronState state{v[k], i[k]};
        float u;
        emitted[k] = update_neuron<synapse, Kind::fires, Kind::reset>(x[k], c[0], state, u);
        v[k] = state.v;
        i[k] = state.i;
      }
      if constexpr (Form::packed) {
        store_bits<width>(emitted, valid, neuron, to);
      } else {
        store<width>(Form::output, emitted, to);
      }
      to += params.output.time_stride;
    }
  }
  if (!valid) return;
  store_floats<width>(v, row_v);
  if (synapse != Synapse::kNone) store_floats<width>(i, row_i);
}

// Calls launch(PlainForm<...>()) with the form of `params` for threads of `width` neurons. False if there is
// none.
template <int width, class Launch>
bool with_form(const NeuronParams& params, const Launch& launch) {
  constexpr Element kF = Element::kFloat32, kH = Element::kFloat16, kB = Element::kBFloat16,
                    kU = Element::kUInt8;
  const Element first = params.branches[0].type, second = params.branches[params.branch_count - 1].type;
  const Element output = params.output.type;
  const auto is = [&](Element of_first, Element of_second, int branches, Element of_output, bool packed) {
    return first == of_first && second == of_second && params.branch_count == branches &&
           output == of_output && params.packed == packed;
  };
#define NEUROCUDA_FORM(...)                  \
  if (is(__VA_ARGS__)) {                     \
    launch(PlainForm<width, __VA_ARGS__>()); \
    return true;                             \
  }
  if constexpr (width == 4) {  // narrower types take eight
    NEUROCUDA_FORM(kF, kF, 1, kF, false)
    NEUROCUDA_FORM(kF, kF, 1, kU, false)
    NEUROCUDA_FORM(kF, kF, 1, kU, true)
    NEUROCUDA_FORM(kF, kF, 2, kF, false)
    NEUROCUDA_FORM(kF, kF, 2, kU, false)
    NEUROCUDA_FORM(kF, kU, 2, kF, false)  // spikes that bypass an int8 layer
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
  } else {  // small populations
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

// The kinds of common networks.
template <class Kind>
constexpr bool is_specialized =
    (Kind::synapse == Synapse::kNone || Kind::synapse == Synapse::kUpdated) &&
    (Kind::fires == Fires::kAbove || Kind::fires == Fires::kReaching) && Kind::reset != Reset::kFeedback;

template <int width>
bool launch_specialized(const NeuronParams& params, std::int64_t first, std::int64_t last, Stream stream) {
  bool launched = false;
  with_kind(params.kind, [&](auto kind) {
    using Kind = decltype(kind);
    if constexpr (is_specialized<Kind>) {
      launched = with_form<width>(params, [&](auto form) {
        using Form = decltype(form);
        const int threads = width == 1 ? staged_threads(last - first) : kWideThreads;
        const unsigned blocks = blocks_for((last - first) / width, threads);
        NEUROCUDA_LAUNCH((neuron_plain<Kind, Form>), blocks, threads, 0, stream, params, first, last);
      });
    }
  });
  return launched;
}

inline bool all_dense(const NeuronParams& params) {
  for (int branch = 0; branch < params.branch_count; ++branch) {
    if (!params.branches[branch].dense) return false;
  }
  return params.v.dense && params.i.dense && (params.packed || params.output.dense);
}

}  // namespace neurocuda::cuda
