// recurrent_neuron: a population whose spikes come back to it through a matrix, over time, in one call.

#include "ops/recurrent_neuron.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "cpu/recurrent_neuron.h"
#include "ops/on_device.h"
#include "ops/operators.h"
#include "ops/ordered.h"

namespace neurocuda {

Recurrence Recurrence::of(Boxed a) {
  return {a[0].toTensorVector(), a[1].toInt(),    a[2].toTensor(),
          optional_tensor(a[3]), a[6].toTensor(), NeuronArgs::of(a, 4, 7)};
}

void Recurrence::check(const char* op) const {
  neurons.check(op, branches);
  TORCH_CHECK_VALUE(!neurons.feeds_back(), op, ": expected v_reset, found none");
  const auto sizes = branches[0].sym_sizes();
  TORCH_CHECK_VALUE(sizes.size() >= 3, op, ": expected branches [T, B, *batch, N], found ", sizes);
  TORCH_CHECK_VALUE(0 <= place && place <= std::int64_t(branches.size()), op, ": expected place from 0 to ",
                    branches.size(), ", found ", place);
  c10::SymDimVector square(sizes.begin() + 2, sizes.end());
  square.push_back(square.back());
  TORCH_CHECK_VALUE(weight.scalar_type() == at::kFloat && weight.sym_sizes() == c10::SymIntArrayRef(square),
                    op, ": expected weight in float32 of shape ", c10::SymIntArrayRef(square), ", found ",
                    weight.scalar_type(), " ", weight.sym_sizes());
  TORCH_CHECK_VALUE(!bias.defined() || bias.scalar_type() == at::kFloat, op,
                    ": expected bias in float32, found ", bias.scalar_type());
  TORCH_CHECK_VALUE(spikes.sym_sizes() == sizes.slice(1) && readable(spikes.scalar_type()), op,
                    ": expected spikes of shape ", sizes.slice(1), ", found ", spikes.scalar_type(), " ",
                    spikes.sym_sizes());
  const c10::Device device = branches[0].device();
  check_device(op, "weight", weight, device);
  if (bias.defined()) check_device(op, "bias", bias, device);
  check_device(op, "spikes", spikes, device);
}

namespace {

using at::Tensor;

// The parameters of a kernel, and the tensors that they point into.
struct RecurrentJob {
  RecurrentParams params;
  Tensor weights, bias;
  Copies copies;
};

// There are steps and neurons.
RecurrentJob job_of(const Recurrence& r, const Tensor& prepacked, const RecurrentOutputs& outputs) {
  const auto& [output, v, i, spikes, trace_v, trace_i, trace_recurrent] = outputs;
  const std::int64_t neurons = r.weight.size(-1);
  const std::int64_t matrices = r.weight.numel() / std::max<std::int64_t>(1, neurons * neurons);
  const Order order = order_of(v.sizes());
  RecurrentJob job;
  job.weights = prepacked_weight("ordered_linear", prepacked, r.weight, {matrices, neurons, neurons});
  job.bias =
      expanded_bias("recurrent_neuron", r.bias, r.weight, r.weight.sizes().slice(0, r.weight.dim() - 1));
  RecurrentParams& params = job.params;
  describe(r.branches, r.neurons, order, params, job.copies);
  params.samples = order.neurons / neurons;
  params.neurons = neurons;
  params.matrices = matrices;
  params.place = static_cast<int>(r.place);
  params.prepacked = job.weights.const_data_ptr<float>();
  params.bias = job.bias.defined() ? job.bias.const_data_ptr<float>() : nullptr;
  params.v = signal_of(v, false, order);
  if (i.defined()) params.i = signal_of(i, false, order);
  params.previous = signal_of(spikes, false, order);
  params.output = signal_of(output, true, order);
  if (trace_v.defined()) params.trace_v = signal_of(trace_v, true, order);
  if (trace_i.defined()) params.trace_i = signal_of(trace_i, true, order);
  if (trace_recurrent.defined()) params.trace_recurrent = signal_of(trace_recurrent, true, order);
  return job;
}

void run_on_cpu(const RecurrentParams& params) {
  constexpr std::int64_t kWorthAThread = 1 << 14;  // updates of a neuron
  const std::int64_t grain = std::max<std::int64_t>(1, kWorthAThread / (params.steps * params.neurons));
  at::parallel_for(0, params.samples, grain, [&](std::int64_t first, std::int64_t last) {
    cpu::recurrent_neuron(params, first, last);
  });
}

// Of this type, or by default that of the branches.
RecurrentOutputs allocate(const Recurrence& r, const RecurrentResults& results) {
  const at::ScalarType type = r.neurons.output_type("recurrent_neuron", r.branches, results.dtype);
  const bool synapse = r.neurons.has_synapse();
  const auto sizes = r.branches[0].sym_sizes();
  const auto tensor = [&](bool there, c10::SymIntArrayRef shape, at::ScalarType of) {
    return there ? fresh(shape, {}, r.neurons.v.options().dtype(of)) : Tensor();
  };
  return {tensor(true, sizes, type),
          tensor(true, sizes.slice(1), at::kFloat),
          tensor(synapse, sizes.slice(1), at::kFloat),
          tensor(true, sizes.slice(1), r.spikes.scalar_type()),
          tensor(results.trace_v, sizes, at::kFloat),
          tensor(results.trace_i && synapse, sizes, at::kFloat),
          tensor(results.trace_recurrent, sizes, at::kFloat)};
}

std::vector<bool> results_of_recurrence(Boxed a) {
  const bool synapse = NeuronArgs::of(a, 4, 7).has_synapse();
  return {true, true, synapse, true, a[21].toBool(), synapse && a[22].toBool(), a[23].toBool()};
}

std::vector<Tensor> backward_of_recurrence(const Backward& pass) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("neurocuda::recurrent_neuron_backward", "");
  const Boxed same = pass.saved.slice(0, Recurrence::kArguments);
  torch::jit::Stack stack(same.begin(), same.end());
  stack.insert(stack.end(), {pass.saved[24], pass.saved[25]});
  for (const Tensor& gradient : pass.gradients) stack.push_back(boxed_optional(gradient));
  c10::List<bool> needed;
  for (int at = 0; at < 7 + kCoefficients; ++at) {
    if (at != 1) needed.push_back(pass.needed[at]);
  }
  stack.emplace_back(needed);
  op.callBoxed(stack);
  std::vector<Tensor> found;
  for (const c10::IValue& gradient : stack) found.push_back(gradient.toTensor());
  found.insert(found.begin() + 1, Tensor());  // `place` has none
  return found;
}

}  // namespace

RecurrentOutputs run_recurrence(const Recurrence& r, const RecurrentResults& results,
                                const Tensor& prepacked) {
  RecurrentOutputs outputs = allocate(r, results);
  const Tensor& v = outputs[1];
  if (v.is_meta()) return outputs;
  copy_state(r.neurons.v, v);
  if (outputs[2].defined()) copy_state(r.neurons.i, outputs[2]);
  copy_state(r.spikes, outputs[3]);
  if (r.branches[0].size(0) == 0 || v.numel() == 0) return outputs;
  RecurrentJob job = job_of(r, prepacked, outputs);
  const auto on_cuda = [&](cuda::Stream stream) {
    const auto bytes = static_cast<std::int64_t>(cuda::recurrent_scratch(job.params));
    const Tensor scratch = at::empty({bytes}, v.options().dtype(at::kByte));
    job.params.scratch = scratch.mutable_data_ptr();
    cuda::recurrent_neuron(job.params, stream);
  };
  on_device(v, on_cuda, [&] { run_on_cpu(job.params); });
  return outputs;
}

RecurrentOutputs recurrent_neuron(Boxed a) {
  const auto r = Recurrence::of(a);
  r.check("recurrent_neuron");
  const RecurrentResults results{a[20].toOptional<at::ScalarType>(), a[21].toBool(), a[22].toBool(),
                                 a[23].toBool()};
  RecurrentOutputs outputs = run_recurrence(r, results, optional_tensor(a[26]));
  for (Tensor& output : outputs) {
    if (!output.defined()) output = nothing(outputs[1].options());
  }
  return outputs;
}

Formula recurrent_neuron_formula() { return {26, false, backward_of_recurrence, results_of_recurrence}; }

std::optional<BoundRecurrence> BoundRecurrence::of(const Recurrence& r, const Tensor& prepacked) {
  r.check("recurrent_neuron");
  const Tensor &v = r.neurons.v, &i = r.neurons.i;
  if (!std::all_of(r.branches.begin(), r.branches.end(), dense_floats) || !dense_floats(v) ||
      !dense_floats(r.spikes))
    return {};
  if ((i.defined() && !dense_floats(i)) || !prepacked.defined() || r.branches[0].numel() == 0) return {};
  const RecurrentJob job = job_of(r, prepacked, {r.branches[0], v, i, r.spikes});
  if (any(job.copies) || !job.weights.is_same(prepacked)) return {};
  if (r.bias.defined() && job.bias.const_data_ptr() != r.bias.const_data_ptr()) return {};
  BoundRecurrence bound;
  bound.params_ = job.params;
  return bound;
}

void BoundRecurrence::operator()(const std::vector<const Tensor*>& branches, const Tensor& output,
                                 const Tensor& v, const Tensor* i, const Tensor& spikes) const {
  RecurrentParams params = params_;
  for (std::size_t branch = 0; branch < branches.size(); ++branch)
    params.branches[branch].data = place_of(*branches[branch]);
  params.output.data = place_of(output);
  params.v.data = place_of(v);
  if (i != nullptr) params.i.data = place_of(*i);
  params.previous.data = place_of(spikes);
  run_on_cpu(params);
}

}  // namespace neurocuda
