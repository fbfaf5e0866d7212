// neuron_backward: the gradients of `neuron`.

#include "cpu/neuron_backward.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

#include "cpu/neuron.h"
#include "cpu/shared_sum.h"
#include "ops/neuron.h"
#include "ops/on_device.h"
#include "ops/operators.h"

namespace neurocuda {

using at::Tensor;

SurrogateSlope SurrogateSlope::of(c10::string_view name, double slope) {
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
// order, so that the bits depend neither on threads nor on the device.
Tensor reduce(const Tensor& sums, const Tensor& coefficient, const Order& order) {
  const std::int64_t missing = sums.dim() - coefficient.dim();
  const Tensor result = at::empty(coefficient.sizes(), sums.options());
  SharedSumParams params;
  params.values = sums.const_data_ptr<float>();
  params.axes = order.axes;
  params.members = order.neurons;
  for (int place = 0; place < order.axes; ++place) {
    const std::int64_t axis = order.axis[place] - missing;
    const bool kept = axis >= 0 && coefficient.size(axis) > 1;
    params.sizes[place] = order.size[place];
    params.to_strides[place] = kept ? result.stride(axis) : 0;
    if (kept) params.members /= order.size[place];
  }
  params.elements = result.numel();
  params.to = result.mutable_data_ptr<float>();
  if (order.neurons == 0) {
    result.zero_();
    return result;
  }
  on_device(
      sums,
      [&](cuda::Stream stream) {
        const Tensor partial =
            at::empty({partial_sums(params.elements, params.members)}, sums.options().dtype(at::kDouble));
        params.partial = partial.mutable_data_ptr<double>();
        cuda::shared_sum(params, stream);
      },
      [&] { cpu::shared_sum(params); });
  return result;
}

void check_arriving(const NeuronOutputs& arriving, c10::SymIntArrayRef sizes) {
  for (std::size_t at = 0; at < arriving.size(); ++at) {
    const Tensor& gradient = arriving[at];
    if (!gradient.defined()) continue;
    const auto expected = at == 1 || at == 2 ? sizes.slice(1) : sizes;  // of the state, or over time
    TORCH_CHECK_VALUE(readable(gradient.scalar_type()) && gradient.sym_sizes() == expected,
                      "neuron_backward: expected gradients of the shape of their tensors, ", expected,
                      ", found ", gradient.sym_sizes());
  }
}

// Computes into `results`, of which those of the coefficients are still to be made. `layout` are the strides
// of one step; none where that is contiguous.
void run(at::TensorList branches, const NeuronArgs& neurons, SurrogateSlope surrogate,
         const NeuronOutputs& arriving, c10::SymIntArrayRef layout, const NeedsGradient& needed,
         NeuronGradients& results) {
  const Tensor& v = neurons.v;
  const Order order = order_of(v.sizes(), C10_AS_INTARRAYREF_SLOW(layout));
  NeuronBackwardParams params;
  Copies copies;
  describe(branches, neurons, order, params, copies);
  params.surrogate = surrogate.surrogate;
  params.scale = surrogate.scale;
  params.neurons = order.neurons;
  const auto signal = [&](const Tensor& tensor, bool over_time) {
    return tensor.defined() ? signal_of(tensor, over_time, order) : Signal();
  };
  params.v = signal(v, false);
  params.i = signal(neurons.i, false);
  params.of_output = signal(arriving[0], true);
  params.of_v = signal(arriving[1], false);
  params.of_i = signal(arriving[2], false);
  params.of_trace_v = signal(arriving[3], true);
  params.of_trace_i = signal(arriving[4], true);
  if (needed[0]) params.to_branches = signal(results[0], true);
  if (needed[1]) params.to_v = signal(results[1], false);
  if (needed[2]) params.to_i = signal(results[2], false);
  std::array<Tensor, kCoefficients> sums;
  for (int name = 0; name < kCoefficients; ++name) {
    if (!needed[name + 3]) continue;
    sums[name] = fresh(v.sym_sizes(), layout, v.options());
    params.to_coefficients[name] = signal(sums[name], false);
  }
  on_device(
      v,
      [&](cuda::Stream stream) {
        const std::int64_t later = std::max<std::int64_t>((params.steps - 1) / kBackwardSegment, 0);
        const bool two = neurons.has_synapse() || params.kind.general();
        const Tensor states = at::empty({later * (two ? 2 : 1), order.neurons}, v.options());
        params.states = states.mutable_data_ptr<float>();
        cuda::neuron_backward(params, stream);
      },
      [&] {
        const std::int64_t units = (order.neurons + cpu::kNeuronGrain - 1) / cpu::kNeuronGrain;
        at::parallel_for(0, units, grain(params.steps), [&](std::int64_t first, std::int64_t last) {
          cpu::neuron_backward(params, first * cpu::kNeuronGrain,
                               std::min(last * cpu::kNeuronGrain, order.neurons));
        });
      });
  for (int name = 0; name < kCoefficients; ++name) {
    if (needed[name + 3]) results[name + 3] = reduce(sums[name], neurons.coefficients[name], order);
  }
}

}  // namespace

NeuronGradients neuron_gradients(at::TensorList branches, const NeuronArgs& neurons, SurrogateSlope surrogate,
                                 const NeuronOutputs& arriving, NeedsGradient needed) {
  neurons.check("neuron_backward", branches);
  TORCH_CHECK_VALUE(!neurons.feeds_back(), "neuron_backward: expected v_reset, found none");
  check_arriving(arriving, branches[0].sym_sizes());
  const auto options = neurons.v.options();
  const auto layout = output_strides(branches);
  const std::vector<c10::SymInt> state_layout = state_strides(layout, branches[0].sym_size(0));
  NeuronGradients results;
  needed[2] = needed[2] && neurons.has_synapse();
  if (needed[0]) results[0] = fresh(branches[0].sym_sizes(), layout, options);
  for (const int state : {1, 2}) {
    if (needed[state]) results[state] = fresh(neurons.v.sym_sizes(), state_layout, options);
  }
  for (int name = 0; name < kCoefficients; ++name) {
    const Tensor& coefficient = neurons.coefficients[name];
    needed[name + 3] = needed[name + 3] && coefficient.defined();
    if (needed[name + 3] && neurons.v.is_meta())
      results[name + 3] = fresh(coefficient.sym_sizes(), {}, options);
  }
  if (!neurons.v.is_meta()) run(branches, neurons, surrogate, arriving, state_layout, needed, results);
  return results;
}

NeuronGradients neuron_backward(Boxed a) {
  NeuronOutputs arriving;
  for (int at = 0; at < 5; ++at) arriving[at] = optional_tensor(a[18 + at]);
  NeedsGradient needed;
  for (int at = 0; at < kGradients; ++at) needed[at] = a[23].toBoolList().get(at);
  const NeuronArgs neurons = NeuronArgs::of(a, 1, 3);
  const auto surrogate = SurrogateSlope::of(a[16].toStringView(), a[17].toDouble());
  NeuronGradients results = neuron_gradients(a[0].toTensorVector(), neurons, surrogate, arriving, needed);
  for (Tensor& result : results) {
    if (!result.defined()) result = at::empty({0}, neurons.v.options());
  }
  return results;
}

}  // namespace neurocuda
