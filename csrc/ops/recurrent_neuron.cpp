// recurrent_neuron: a population whose spikes come back to it through a matrix, over time, in one call.

#include "ops/recurrent_neuron.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "cpu/recurrent_neuron.h"
#include "ops/on_device.h"

namespace neurocuda {

void Recurrence::check(const char* op) const {
  population.check(op, branches);
  TORCH_CHECK_VALUE(!population.feeds_back(), op, ": expected v_reset, found none");
  const auto sizes = branches[0].sym_sizes();
  TORCH_CHECK_VALUE(sizes.size() >= 3, op, ": expected branches [T, B, *batch, N], found ", sizes);
  TORCH_CHECK_VALUE(0 <= place && place <= std::int64_t(branches.size()), op, ": expected place from 0 to ",
                    branches.size(), ", found ", place);
  c10::SymDimVector square(sizes.begin() + 2, sizes.end());
  square.push_back(square.back());
  TORCH_CHECK_VALUE(weight.scalar_type() == at::kFloat && weight.sym_sizes() == c10::SymIntArrayRef(square),
                    op, ": expected weight in float32 of shape ", c10::SymIntArrayRef(square), ", found ",
                    weight.scalar_type(), " ", weight.sym_sizes());
  TORCH_CHECK_VALUE(!bias || bias->scalar_type() == at::kFloat, op, ": expected bias in float32, found ",
                    bias->scalar_type());
  TORCH_CHECK_VALUE(spikes.sym_sizes() == sizes.slice(1) && readable(spikes.scalar_type()), op,
                    ": expected spikes of shape ", sizes.slice(1), ", found ", spikes.scalar_type(), " ",
                    spikes.sym_sizes());
  const c10::Device device = branches[0].device();
  check_device(op, "weight", weight, device);
  if (bias) check_device(op, "bias", *bias, device);
  check_device(op, "spikes", spikes, device);
}

namespace {

using at::Tensor;

at::ScalarType output_type(const Recurrence& r, std::optional<at::ScalarType> dtype) {
  const Population& population = r.population;
  at::ScalarType type = r.branches[0].scalar_type();
  for (const Tensor& branch : r.branches) type = at::promoteTypes(type, branch.scalar_type());
  if (!population.fires() && !at::isFloatingType(type)) type = at::kFloat;
  type = dtype.value_or(type);
  TORCH_CHECK_VALUE(readable(type),
                    "recurrent_neuron: expected an output of float32, float16, bfloat16, uint8 or "
                    "bool, found ",
                    type);
  TORCH_CHECK_VALUE(population.fires() || at::isFloatingType(type),
                    "recurrent_neuron: a membrane potential does not fit in ", type);
  TORCH_CHECK_VALUE(!(population.many && type == at::kBool),
                    "recurrent_neuron: a count of spikes does not fit in ", type);
  return type;
}

struct Results {
  const Tensor &output, &v;
  const Tensor* i;
  const Tensor& spikes;
  const Tensor *trace_v, *trace_i, *trace_recurrent;  // null where not wanted
};

// What the kernels are asked, and the tensors that it points into.
struct Job {
  RecurrentParams call;
  Tensor weights, bias;
  Copies copies;
};

// There are steps and neurons.
Job job_of(const Recurrence& r, const MaybeTensor& packed, const Results& results) {
  const std::int64_t neurons = r.weight.size(-1);
  const std::int64_t matrices = r.weight.numel() / std::max<std::int64_t>(1, neurons * neurons);
  const Order order = order_of(results.v.sizes());
  static const auto pack = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("neurocuda::ordered_linear_pack", "")
                               .typed<Tensor(const Tensor&)>();
  Job job;
  job.weights = packed ? *packed : pack.call(r.weight);
  check_device("recurrent_neuron", "packed", job.weights, r.weight.device());
  TORCH_CHECK_VALUE(
      job.weights.is_contiguous() && job.weights.scalar_type() == at::kFloat &&
          job.weights.sizes() == at::IntArrayRef({matrices, neurons, padded_features(neurons)}),
      "recurrent_neuron: expected packed to be the result of ordered_linear_pack(weight), found ",
      job.weights.sizes());
  const auto widths = r.weight.sizes().slice(0, r.weight.dim() - 1);
  if (r.bias) job.bias = r.bias->expand(widths).contiguous();

  RecurrentParams& call = job.call;
  describe(r.branches, r.population, order, call, job.copies);
  call.samples = order.neurons / neurons;
  call.neurons = neurons;
  call.matrices = matrices;
  call.place = static_cast<int>(r.place);
  call.packed = job.weights.const_data_ptr<float>();
  call.bias = r.bias ? job.bias.const_data_ptr<float>() : nullptr;
  call.v = signal_of(results.v, false, order);
  if (results.i != nullptr) call.i = signal_of(*results.i, false, order);
  call.previous = signal_of(results.spikes, false, order);
  call.output = signal_of(results.output, true, order);
  if (results.trace_v != nullptr) call.trace_v = signal_of(*results.trace_v, true, order);
  if (results.trace_i != nullptr) call.trace_i = signal_of(*results.trace_i, true, order);
  if (results.trace_recurrent != nullptr)
    call.trace_recurrent = signal_of(*results.trace_recurrent, true, order);
  return job;
}

void run_on_cpu(const RecurrentParams& call) {
  constexpr std::int64_t kWorthAThread = 1 << 14;  // updates of a neuron
  const std::int64_t grain = std::max<std::int64_t>(1, kWorthAThread / (call.steps * call.neurons));
  at::parallel_for(0, call.samples, grain,
                   [&](std::int64_t first, std::int64_t last) { cpu::recurrent_neuron(call, first, last); });
}

void run(const Recurrence& r, const MaybeTensor& packed, const Results& results) {
  if (r.branches[0].size(0) == 0 || results.v.numel() == 0) return;
  Job job = job_of(r, packed, results);
  const auto on_cuda = [&](cuda::Stream stream) {
    const auto bytes = static_cast<std::int64_t>(cuda::recurrent_scratch(job.call));
    const Tensor scratch = at::empty({bytes}, results.v.options().dtype(at::kByte));
    job.call.scratch = scratch.mutable_data_ptr();
    cuda::recurrent_neuron(job.call, stream);
  };
  on_device(results.v, on_cuda, [&] { run_on_cpu(job.call); });
}

}  // namespace

// The operator, and, without the values, on Meta tensors. The surrogate is for autograd alone.
RecurrentOutputs recurrent_neuron(at::TensorList branches, std::int64_t place, const Tensor& weight,
                                  const MaybeTensor& bias, const Tensor& v, const MaybeTensor& i,
                                  const Tensor& spikes, const Tensor& decay_v, const Tensor& gain_v,
                                  const Tensor& bias_v, const MaybeTensor& decay_i, const MaybeTensor& gain_i,
                                  const MaybeTensor& threshold, const MaybeTensor& v_reset, bool reaching,
                                  bool subtract, bool previous, bool many,
                                  std::optional<at::ScalarType> dtype, bool trace_v, bool trace_i,
                                  bool trace_recurrent, c10::string_view /*surrogate*/, double /*slope*/,
                                  const MaybeTensor& packed) {
  const Population population{v,         i,       decay_v,  gain_v,   bias_v,   decay_i, gain_i,
                              threshold, v_reset, reaching, subtract, previous, many};
  const Recurrence r{branches, place, weight, bias, spikes, population};
  r.check("recurrent_neuron");
  const auto sizes = branches[0].sym_sizes();
  const auto floats = v.options().dtype(at::kFloat);
  const auto allocate = [&](bool there, c10::SymIntArrayRef shape, at::ScalarType type) {
    return there ? fresh(shape, {}, floats.dtype(type)) : nothing(floats);
  };
  const bool synapse = population.has_synapse();
  RecurrentOutputs outputs{
      allocate(true, sizes, output_type(r, dtype)),  allocate(true, sizes.slice(1), at::kFloat),
      allocate(synapse, sizes.slice(1), at::kFloat), allocate(true, sizes.slice(1), spikes.scalar_type()),
      allocate(trace_v, sizes, at::kFloat),          allocate(trace_i && synapse, sizes, at::kFloat),
      allocate(trace_recurrent, sizes, at::kFloat)};
  if (v.is_meta()) return outputs;
  auto& [output, new_v, new_i, new_spikes, all_v, all_i, all_recurrent] = outputs;
  copy_state(v, new_v);
  if (synapse) copy_state(*i, new_i);
  copy_state(spikes, new_spikes);
  run(r, packed,
      {output, new_v, synapse ? &new_i : nullptr, new_spikes, trace_v ? &all_v : nullptr,
       trace_i && synapse ? &all_i : nullptr, trace_recurrent ? &all_recurrent : nullptr});
  return outputs;
}

std::optional<ReadyRecurrence> ReadyRecurrence::of(const Recurrence& r, const MaybeTensor& packed) {
  r.check("recurrent_neuron");
  const Population& p = r.population;
  if (!std::all_of(r.branches.begin(), r.branches.end(), dense_floats) || !dense_floats(p.v) ||
      !dense_floats(r.spikes))
    return {};
  if ((p.i && !dense_floats(*p.i)) || !packed || r.branches[0].numel() == 0) return {};
  const Job job =
      job_of(r, packed, {r.branches[0], p.v, p.i ? &*p.i : nullptr, r.spikes, nullptr, nullptr, nullptr});
  if (any(job.copies) || (r.bias && job.bias.const_data_ptr() != r.bias->const_data_ptr())) return {};
  ReadyRecurrence ready;
  ready.call_ = job.call;
  return ready;
}

void ReadyRecurrence::operator()(const std::vector<const Tensor*>& branches, const Tensor& output,
                                 const Tensor& v, const Tensor* i, const Tensor& spikes) const {
  RecurrentParams call = call_;
  for (std::size_t branch = 0; branch < branches.size(); ++branch) {
    call.branches[branch].data = place_of(*branches[branch]);
  }
  call.output.data = place_of(output);
  call.v.data = place_of(v);
  if (i != nullptr) call.i.data = place_of(*i);
  call.previous.data = place_of(spikes);
  run_on_cpu(call);
}

namespace {

// What is written overlaps nothing else, as it is written while the rest is read.
void check_memory(const Recurrence& r, std::initializer_list<const Tensor*> written) {
  for (const Tensor* tensor : written) {
    if (tensor == nullptr) continue;
    at::assert_no_internal_overlap(*tensor);
    at::assert_no_overlap(*tensor, r.weight);
    if (r.bias) at::assert_no_overlap(*tensor, *r.bias);
    for (const Tensor& branch : r.branches) at::assert_no_overlap(*tensor, branch);
    for (int name = 0; name < kCoefficients; ++name) {
      if (const Tensor* coefficient = r.population.coefficient(name))
        at::assert_no_overlap(*tensor, *coefficient);
    }
    for (const Tensor* other : written) {
      if (other != nullptr && other != tensor) at::assert_no_overlap(*tensor, *other);
    }
  }
}

void recurrent_neuron_out(at::TensorList branches, std::int64_t place, const Tensor& weight,
                          const MaybeTensor& bias, const Tensor& v, const MaybeTensor& i,
                          const Tensor& spikes, const Tensor& decay_v, const Tensor& gain_v,
                          const Tensor& bias_v, const MaybeTensor& decay_i, const MaybeTensor& gain_i,
                          const MaybeTensor& threshold, const MaybeTensor& v_reset, bool reaching,
                          bool subtract, bool previous, bool many, const MaybeTensor& packed,
                          const Tensor& out, const MaybeTensor& trace_v, const MaybeTensor& trace_i,
                          const MaybeTensor& trace_recurrent) {
  const Population population{v,         i,       decay_v,  gain_v,   bias_v,   decay_i, gain_i,
                              threshold, v_reset, reaching, subtract, previous, many};
  const Recurrence r{branches, place, weight, bias, spikes, population};
  const char* op = "recurrent_neuron";
  r.check(op);
  output_type(r, out.scalar_type());
  const auto sizes = branches[0].sym_sizes();
  const auto pointer = [](const MaybeTensor& tensor) { return tensor ? &*tensor : nullptr; };
  TORCH_CHECK_VALUE(out.sym_sizes() == sizes, op, ": expected out of shape ", sizes, ", found ",
                    out.sym_sizes());
  for (const MaybeTensor* trace : {&trace_v, &trace_i, &trace_recurrent}) {
    TORCH_CHECK_VALUE(!*trace || ((*trace)->sym_sizes() == sizes && (*trace)->scalar_type() == at::kFloat),
                      op, ": expected traces in float32 of shape ", sizes);
  }
  TORCH_CHECK_VALUE(!trace_i || population.has_synapse(), op, ": there is no current to trace");
  check_device(op, "out", out, v.device());
  for (const MaybeTensor* trace : {&trace_v, &trace_i, &trace_recurrent})
    if (trace->has_value()) check_device(op, "traces", **trace, v.device());
  if (v.is_meta()) return;
  const Results results{
      out, v, pointer(i), spikes, pointer(trace_v), pointer(trace_i), pointer(trace_recurrent)};
  const auto written = {
      &out, &v, results.i, &spikes, results.trace_v, results.trace_i, results.trace_recurrent};
  check_memory(r, written);
  run(r, packed, results);
  for (const Tensor* tensor : written) {
    if (tensor != nullptr) mark_written(*tensor);
  }
}

TORCH_LIBRARY_FRAGMENT(neurocuda, m) {
  // branches [T, B, *batch, N], weight [*batch, N, N], bias of a shape that broadcasts to [*batch, N]; spikes
  // [B, *batch, N] are those of the step before the first. The recurrent current, summed as `ordered_linear`
  // does, stands before branch `place` in the sum. Returns the output [T, B, *batch, N] of type `dtype`, by
  // default that of the branches, the state and spikes after the last step, and traces; what there is not is
  // empty. `packed`: ordered_linear_pack(weight), to spare the time.
  m.def(
      "recurrent_neuron(Tensor[] branches, int place, Tensor weight, Tensor? bias, Tensor v, Tensor? i, "
      "Tensor "
      "spikes, Tensor decay_v, Tensor gain_v, Tensor bias_v, Tensor? decay_i, Tensor? gain_i, Tensor? "
      "threshold, "
      "Tensor? v_reset, bool reaching=False, bool subtract=False, bool previous=False, bool many=False, "
      "ScalarType? dtype=None, bool trace_v=False, bool trace_i=False, bool trace_recurrent=False, "
      "str surrogate='fast-sigmoid', float slope=10., Tensor? packed=None) -> (Tensor output, Tensor v, "
      "Tensor i, "
      "Tensor spikes, Tensor trace_v, Tensor trace_i, Tensor trace_recurrent)");
  // The state and the spikes are updated in place.
  m.def(
      "recurrent_neuron.out(Tensor[] branches, int place, Tensor weight, Tensor? bias, Tensor(a!) v, "
      "Tensor(b!)? i, "
      "Tensor(c!) spikes, Tensor decay_v, Tensor gain_v, Tensor bias_v, Tensor? decay_i, Tensor? gain_i, "
      "Tensor? threshold, Tensor? v_reset, bool reaching=False, bool subtract=False, bool previous=False, "
      "bool many=False, *, Tensor? packed=None, Tensor(d!) out, Tensor(e!)? trace_v=None, Tensor(f!)? "
      "trace_i=None, "
      "Tensor(g!)? trace_recurrent=None) -> ()");
}

void implement(torch::Library& m) {
  m.impl("recurrent_neuron", recurrent_neuron);
  m.impl("recurrent_neuron.out", recurrent_neuron_out);
}

NEUROCUDA_IMPLEMENT(implement)
TORCH_LIBRARY_IMPL(neurocuda, Meta, m) { implement(m); }

}  // namespace

}  // namespace neurocuda
