// neuron_backward: the gradients of `neuron`.

#include "cpu/neuron_backward.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "cpu/neuron.h"
#include "cpu/neuron_backward.h"
#include "cpu/shared_sum.h"
#include "ops/neuron.h"
#include "ops/on_device.h"

namespace neurocuda {

using at::Tensor;

std::pair<Surrogate, float> surrogate_of(c10::string_view name, double slope) {
  TORCH_CHECK_VALUE(slope > 0, "neuron: expected a slope > 0, found ", slope);
  if (name == "fast-sigmoid") return {Surrogate::kFastSigmoid, static_cast<float>(slope)};
  if (name == "arctan") {
    constexpr double kHalfPi = 1.57079632679489661923;
    return {Surrogate::kArctan, static_cast<float>(kHalfPi * slope)};
  }
  TORCH_CHECK_VALUE(name == "triangle",
                    "neuron: expected the surrogate fast-sigmoid, arctan or triangle, found ", name);
  return {Surrogate::kTriangle, static_cast<float>(slope)};
}

namespace {

// Sums of neurons, in the order of their memory, reduced to the shape of a coefficient; always in the same
// order, so that neither threads nor devices blur it.
Tensor reduce(const Tensor& sums, const Tensor& coefficient, const Order& order) {
  const std::int64_t missing = sums.dim() - coefficient.dim();
  const Tensor result = at::empty(coefficient.sizes(), sums.options());
  SharedSumParams call;
  call.values = sums.const_data_ptr<float>();
  call.axes = order.axes;
  call.members = order.neurons;
  for (int place = 0; place < order.axes; ++place) {
    const std::int64_t axis = order.axis[place] - missing;
    const bool kept = axis >= 0 && coefficient.size(axis) > 1;
    call.sizes[place] = order.size[place];
    call.to_strides[place] = kept ? result.stride(axis) : 0;
    if (kept) call.members /= order.size[place];
  }
  call.elements = result.numel();
  call.to = result.mutable_data_ptr<float>();
  if (order.neurons == 0) {
    result.zero_();
    return result;
  }
  on_device(
      sums,
      [&](cuda::Stream stream) {
        const Tensor partial =
            at::empty({partial_sums(call.elements, call.members)}, sums.options().dtype(at::kDouble));
        call.partial = partial.mutable_data_ptr<double>();
        cuda::shared_sum(call, stream);
      },
      [&] { cpu::shared_sum(call); });
  return result;
}

// The gradients that arrive at what `neuron` returned.
struct Arriving {
  const MaybeTensor& output;
  const MaybeTensor& v;
  const MaybeTensor& i;
  const MaybeTensor& trace_v;
  const MaybeTensor& trace_i;

  void check(at::TensorList branches) const {
    const auto sizes = branches[0].sym_sizes();
    for (const MaybeTensor* tensor : {&output, &trace_v, &trace_i}) check(*tensor, sizes);
    for (const MaybeTensor* tensor : {&v, &i}) check(*tensor, sizes.slice(1));
  }

 private:
  static void check(const MaybeTensor& tensor, c10::SymIntArrayRef sizes) {
    TORCH_CHECK_VALUE(!tensor || (readable(tensor->scalar_type()) && tensor->sym_sizes() == sizes),
                      "neuron_backward: expected gradients of the shape of their tensors, ", sizes,
                      ", found ", tensor ? tensor->sym_sizes() : sizes);
  }
};

// Computes into `results`, of which those of the coefficients are still to be made. `layout` are the strides
// of one step; none where that is contiguous.
void run(at::TensorList branches, const Population& population, std::pair<Surrogate, float> surrogate,
         const Arriving& arriving, c10::SymIntArrayRef layout, const WantedGradients& wanted,
         std::array<Tensor, kGradients>& results) {
  const Tensor& v = population.v;
  const Order order = order_of(v.sizes(), C10_AS_INTARRAYREF_SLOW(layout));
  NeuronBackwardParams call;
  Copies copies;
  describe(branches, population, order, call, copies);
  call.surrogate = surrogate.first;
  call.scale = surrogate.second;
  call.neurons = order.neurons;
  const auto signal = [&](const MaybeTensor& tensor, bool over_time) {
    return tensor ? signal_of(*tensor, over_time, order) : Signal();
  };
  call.v = signal(v, false);
  call.i = signal(population.i, false);
  call.of_output = signal(arriving.output, true);
  call.of_v = signal(arriving.v, false);
  call.of_i = signal(arriving.i, false);
  call.of_trace_v = signal(arriving.trace_v, true);
  call.of_trace_i = signal(arriving.trace_i, true);
  if (wanted[0]) call.to_branches = signal(results[0], true);
  if (wanted[1]) call.to_v = signal(results[1], false);
  if (wanted[2]) call.to_i = signal(results[2], false);
  std::array<Tensor, kCoefficients> sums;
  for (int name = 0; name < kCoefficients; ++name) {
    if (!wanted[name + 3]) continue;
    sums[name] = fresh(v.sym_sizes(), layout, v.options());
    call.to_coefficients[name] = signal(sums[name], false);
  }
  on_device(
      v,
      [&](cuda::Stream stream) {
        const std::int64_t later = std::max<std::int64_t>((call.steps - 1) / kBackwardSegment, 0);
        const Tensor states =
            at::empty({later * (population.has_synapse() ? 2 : 1), order.neurons}, v.options());
        call.states = states.mutable_data_ptr<float>();
        cuda::neuron_backward(call, stream);
      },
      [&] {
        const std::int64_t units = (order.neurons + cpu::kNeuronGrain - 1) / cpu::kNeuronGrain;
        at::parallel_for(0, units, grain(call.steps), [&](std::int64_t first, std::int64_t last) {
          cpu::neuron_backward(call, first * cpu::kNeuronGrain,
                               std::min(last * cpu::kNeuronGrain, order.neurons));
        });
      });
  for (int name = 0; name < kCoefficients; ++name) {
    if (wanted[name + 3]) results[name + 3] = reduce(sums[name], *population.coefficient(name), order);
  }
}

}  // namespace

NeuronGradients neuron_backward(at::TensorList branches, const Tensor& v, const MaybeTensor& i,
                                const Tensor& decay_v, const Tensor& gain_v, const Tensor& bias_v,
                                const MaybeTensor& decay_i, const MaybeTensor& gain_i,
                                const MaybeTensor& threshold, const MaybeTensor& v_reset, bool reaching,
                                bool subtract, bool previous, bool many, c10::string_view surrogate,
                                double slope, const MaybeTensor& of_output, const MaybeTensor& of_v,
                                const MaybeTensor& of_i, const MaybeTensor& of_trace_v,
                                const MaybeTensor& of_trace_i, WantedGradients wanted) {
  const Population population{v,         i,       decay_v,  gain_v,   bias_v,   decay_i, gain_i,
                              threshold, v_reset, reaching, subtract, previous, many};
  population.check("neuron_backward", branches);
  TORCH_CHECK_VALUE(!population.feeds_back(), "neuron_backward: expected v_reset, found none");
  const auto kind = surrogate_of(surrogate, slope);
  const Arriving arriving{of_output, of_v, of_i, of_trace_v, of_trace_i};
  arriving.check(branches);
  const auto options = v.options();
  const auto layout = output_strides(branches);
  const std::vector<c10::SymInt> state_layout = state_strides(layout, branches[0].sym_size(0));
  std::array<Tensor, kGradients> results;
  for (int which = 0; which < kGradients; ++which) {
    const Tensor* coefficient = which < 3 ? nullptr : population.coefficient(which - 3);
    const bool there = which < 2 || (which == 2 ? population.has_synapse() : coefficient != nullptr);
    wanted[which] = wanted[which] && there;
    if (!wanted[which]) {
      results[which] = at::empty({0}, options);
    } else if (which == 0) {
      results[which] = fresh(branches[0].sym_sizes(), layout, options);
    } else if (which < 3) {
      results[which] = fresh(v.sym_sizes(), state_layout, options);
    } else if (v.is_meta()) {
      results[which] = at::empty_symint(coefficient->sym_sizes(), options);
    }
  }
  if (!v.is_meta()) run(branches, population, kind, arriving, state_layout, wanted, results);
  return std::tuple_cat(results);
}

namespace {

TORCH_LIBRARY_FRAGMENT(neurocuda, m) {
  // of_*: the gradients that arrive at the outputs of `neuron`. wanted: which of the results are asked for;
  // the others are empty. to_branches is that of every branch.
  m.def(
      "neuron_backward(Tensor[] branches, Tensor v, Tensor? i, Tensor decay_v, Tensor gain_v, Tensor bias_v, "
      "Tensor? decay_i, Tensor? gain_i, Tensor? threshold, Tensor? v_reset, *, bool reaching=False, "
      "bool subtract=False, bool previous=False, bool many=False, str surrogate='fast-sigmoid', "
      "float slope=10., Tensor? of_output=None, Tensor? of_v=None, Tensor? of_i=None, Tensor? "
      "of_trace_v=None, "
      "Tensor? of_trace_i=None, bool[10] wanted) -> (Tensor to_branches, Tensor to_v, Tensor to_i, "
      "Tensor to_decay_v, Tensor to_gain_v, Tensor to_bias_v, Tensor to_decay_i, Tensor to_gain_i, "
      "Tensor to_threshold, Tensor to_v_reset)");
}

void implement(torch::Library& m) { m.impl("neuron_backward", neuron_backward); }

NEUROCUDA_IMPLEMENT(implement)

TORCH_LIBRARY_IMPL(neurocuda, Meta, m) { m.impl("neuron_backward", neuron_backward); }

}  // namespace
}  // namespace neurocuda
