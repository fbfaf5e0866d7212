// neuron: sums branches and updates a population over time in one pass.

#include "ops/neuron.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "cpu/neuron.h"
#include "ops/autograd.h"
#include "ops/checks.h"
#include "ops/on_device.h"
#include "ops/operators.h"

namespace neurocuda {

NeuronArgs NeuronArgs::of(Boxed a, int state, int decay_v) {
  NeuronArgs neurons{
      a[state].toTensor(), optional_tensor(a[state + 1]), {}, false, false, false, false, false};
  for (int name = 0; name < kCoefficients; ++name)
    neurons.coefficients[name] = optional_tensor(a[decay_v + name]);
  int flag = decay_v + kCoefficients;
  for (bool* field : {&neurons.reaching, &neurons.subtract, &neurons.previous, &neurons.many, &neurons.late})
    *field = a[flag++].toBool();
  return neurons;
}

NeuronKind NeuronArgs::kind() const {
  const Synapse synapse = !has_synapse() ? Synapse::kNone : previous ? Synapse::kPrevious : Synapse::kUpdated;
  const Fires fires = !this->fires() ? Fires::kNever
                      : many         ? Fires::kMany
                      : reaching     ? Fires::kReaching
                                     : Fires::kAbove;
  const Reset reset = feeds_back() ? Reset::kFeedback : subtract ? Reset::kSubtract : Reset::kToValue;
  return {synapse, fires, reset, late, bounded()};
}

void NeuronArgs::check(const char* op, at::TensorList branches) const {
  check_branches(op, branches);
  const bool synapse = has_synapse();
  TORCH_CHECK_VALUE(coefficients[kGainI].defined() == synapse && i.defined() == synapse, op,
                    ": expected i, decay_i and gain_i, or none of them");
  TORCH_CHECK_VALUE(fires() || !coefficients[kVReset].defined(), op, ": expected a threshold with v_reset");
  TORCH_CHECK_VALUE(!feeds_back() || (synapse && !previous && !many), op,
                    ": expected v_reset, or i, decay_i and gain_i as the spikes that come back, with neither "
                    "previous nor many");
  TORCH_CHECK_VALUE(!bounded() || (fires() && !feeds_back()), op,
                    ": expected a threshold and v_reset with v_min");
  TORCH_CHECK_VALUE(!late || (fires() && !feeds_back() && !many), op,
                    ": expected a threshold and v_reset, and no many, with late");
  const auto shape = branches[0].sym_sizes().slice(1);
  const auto check = [&](const char* name, const at::Tensor& tensor) {
    TORCH_CHECK_VALUE(tensor.scalar_type() == at::kFloat, op, ": expected ", name, " in float32, found ",
                      name_of(tensor.scalar_type()));
    check_device(op, name, tensor, branches[0].device());
  };
  for (const auto& [name, tensor] : {std::pair("v", &v), std::pair("i", &i)}) {
    if (!tensor->defined()) continue;
    check(name, *tensor);
    TORCH_CHECK_VALUE(tensor->sym_sizes() == shape, op, ": expected ", name, " of shape ", shape, ", found ",
                      tensor->sym_sizes());
  }
  static constexpr const char* names[] = {"decay_v", "gain_v",    "bias_v",  "decay_i",
                                          "gain_i",  "threshold", "v_reset", "v_min"};
  for (int name = 0; name < kCoefficients; ++name) {
    const at::Tensor& tensor = coefficients[name];
    if (!tensor.defined()) continue;
    check(names[name], tensor);
    const auto own = tensor.sym_sizes();
    bool fits = own.size() <= shape.size();
    for (std::size_t axis = 0; fits && axis < own.size(); ++axis) {
      fits = own[axis] == 1 || own[axis] == shape[shape.size() - own.size() + axis];
    }
    TORCH_CHECK_VALUE(fits, op, ": expected ", names[name], " of a shape that broadcasts to ", shape,
                      ", found ", own);
  }
}

at::ScalarType NeuronArgs::output_type(const char* op, at::TensorList branches,
                                       std::optional<at::ScalarType> dtype) const {
  at::ScalarType type = branches[0].scalar_type();
  for (const at::Tensor& branch : branches) type = at::promoteTypes(type, branch.scalar_type());
  if (!fires() && !at::isFloatingType(type)) type = at::kFloat;
  type = dtype.value_or(type);
  TORCH_CHECK_VALUE(readable(type), op,
                    ": expected an output of float32, float16, bfloat16, uint8 or bool, found ",
                    name_of(type));
  TORCH_CHECK_VALUE(fires() || at::isFloatingType(type), op, ": a membrane potential does not fit in ",
                    name_of(type));
  TORCH_CHECK_VALUE(!(many && type == at::kBool), op, ": a count of spikes does not fit in ", name_of(type));
  return type;
}

bool any(const Copies& copies) {
  return std::any_of(copies.begin(), copies.end(), [](const at::Tensor& t) { return t.defined(); });
}

std::int64_t grain(std::int64_t steps) {
  constexpr std::int64_t kWorthAThread = 1 << 15;  // updates of a neuron
  return std::max<std::int64_t>(1, kWorthAThread / (cpu::kNeuronGrain * std::max<std::int64_t>(steps, 1)));
}

namespace {

using at::Tensor;

// `spare`, if a tensor made as `fresh` would make it has its place.
Tensor reused(const Tensor& spare, c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides,
              const at::TensorOptions& options) {
  const bool fits = spare.defined() && spare.sym_sizes() == sizes &&
                    spare.scalar_type() == c10::typeMetaToScalarType(options.dtype()) &&
                    (strides.empty() ? spare.is_contiguous() : spare.sym_strides() == strides);
  return fits ? spare : fresh(sizes, strides, options);
}

// Tensors for all results, fresh unless they are spare; undefined where not requested.
NeuronOutputs allocate(at::TensorList branches, bool synapse, at::ScalarType type, bool packed, bool trace_v,
                       bool trace_i, const Recorded& spare) {
  const auto options = branches[0].options();
  const auto floats = options.dtype(at::kFloat);
  const auto sizes = branches[0].sym_sizes();
  const c10::SymIntArrayRef strides = packed ? c10::SymIntArrayRef() : output_strides(branches);
  const std::vector<c10::SymInt> of_state = state_strides(strides, sizes[0]);
  const auto state = [&](const Tensor& before) { return reused(before, sizes.slice(1), of_state, floats); };
  NeuronOutputs outputs;
  outputs[0] = packed ? fresh(packed_shape(sizes), {}, options.dtype(at::kByte))
                      : reused(spare.output, sizes, strides, options.dtype(type));
  outputs[1] = state(spare.v);
  if (synapse) outputs[2] = state(spare.i);
  if (trace_v) outputs[3] = fresh(sizes, strides, floats);
  if (trace_i && synapse) outputs[4] = fresh(sizes, strides, floats);
  return outputs;
}

// The parameters of a kernel, and the tensors that they point into.
struct NeuronJob {
  Order order;
  NeuronParams params;
  Copies copies;
};

NeuronJob job_of(at::TensorList branches, const NeuronArgs& neurons, bool packed,
                 const NeuronOutputs& outputs) {
  const auto& [output, v, i, trace_v, trace_i] = outputs;
  const auto sizes = v.sizes();
  NeuronJob job{packed ? order_of(sizes) : order_of(sizes, output.strides().slice(1)), {}, {}};
  const Order& order = job.order;
  NeuronParams& params = job.params;
  describe(branches, neurons, order, params, job.copies);
  params.neurons = order.neurons;
  params.v = signal_of(v, false, order);
  if (i.defined()) params.i = signal_of(i, false, order);
  params.packed = packed;
  if (packed) {
    params.output.data = static_cast<char*>(output.mutable_data_ptr());
    params.output.type = Element::kUInt8;
    params.output.time_stride = output.stride(0);
  } else {
    params.output = signal_of(output, true, order);
  }
  if (trace_v.defined()) params.trace_v = signal_of(trace_v, true, order);
  if (trace_i.defined()) params.trace_i = signal_of(trace_i, true, order);
  return job;
}

template <class Params, class Function>
void each_signal(Params& params, Function function) {
  for (int branch = 0; branch < params.branch_count; ++branch) function(params.branches[branch]);
  for (auto* signal : {&params.v, &params.i, &params.output, &params.trace_v, &params.trace_i}) {
    if (signal->data != nullptr) function(*signal);
  }
}

// The neurons of one sample if the memory has sample after sample, each over all steps: they are run in that
// order. Otherwise all neurons.
std::int64_t neurons_of_sample(const NeuronParams& params) {
  std::int64_t found = params.neurons;
  each_signal(params, [&](const Signal& signal) {
    if (!signal.dense && signal.axes == 2) found = std::min(found, signal.sizes[1]);
  });
  if (found == params.neurons) return found;
  bool possible = !params.packed && params.neurons % found == 0;
  each_signal(params, [&](const Signal& signal) {
    possible = possible && (signal.dense || (signal.axes == 2 && signal.sizes[1] == found &&
                                             signal.strides[1] == size_of(signal.type)));
  });
  for (const Coefficient& c : params.coefficients) {
    possible = possible && (c.values == nullptr || found % (c.inner * c.count) == 0);
  }
  return possible ? found : params.neurons;
}

NeuronParams of_sample(const NeuronParams& params, std::int64_t sample, std::int64_t neurons) {
  NeuronParams own = params;
  own.neurons = neurons;
  each_signal(own, [&](Signal& signal) {
    signal.data += sample * (signal.dense ? neurons * size_of(signal.type) : signal.strides[0]);
    signal.dense = true;
  });
  return own;
}

void run_on_cpu(const NeuronParams& params, std::atomic<bool>* finite) {
  const std::int64_t neurons = neurons_of_sample(params);
  const std::int64_t units = (neurons + cpu::kNeuronGrain - 1) / cpu::kNeuronGrain;
  const auto all = units * (params.neurons / neurons);
  at::parallel_for(0, all, grain(params.steps), [&](std::int64_t first, std::int64_t last) {
    while (first < last) {
      const std::int64_t sample = first / units, from = first % units,
                         to = std::min(units, from + last - first);
      const auto run = [&](const NeuronParams& own) {
        cpu::neuron(own, from * cpu::kNeuronGrain, std::min(to * cpu::kNeuronGrain, neurons), finite);
      };
      if (neurons == params.neurons) {
        run(params);
      } else {
        run(of_sample(params, sample, neurons));
      }
      first += to - from;
    }
  });
}

// Where the kernels read a state that they update elsewhere; where they cannot, it is copied there first.
StateBefore before(const Tensor& from, const Tensor& to, const Order& order, std::int64_t steps) {
  if (from.is_same(to)) return {};
  if (computes_on_cuda(from) && from.numel() > 0 && steps > 0) {
    const Signal signal = signal_of(from, false, order);
    const auto* values = from.const_data_ptr<float>();
    const bool one =
        std::all_of(signal.strides, signal.strides + signal.axes, [](auto stride) { return stride == 0; });
    if (one) return {values, true};
    if (signal.dense && reinterpret_cast<std::uintptr_t>(values) % 16 == 0) return {values, false};
  }
  copy_state(from, to);
  return {};
}

void run(at::TensorList branches, const NeuronArgs& neurons, bool packed, const NeuronOutputs& outputs,
         std::atomic<bool>* finite) {
  NeuronJob job = job_of(branches, neurons, packed, outputs);
  NeuronParams& params = job.params;
  const Tensor &v = outputs[1], &i = outputs[2];
  params.v_before = before(neurons.v, v, job.order, params.steps);
  if (i.defined()) params.i_before = before(neurons.i, i, job.order, params.steps);
  if (params.steps == 0 || params.neurons == 0) return;
  on_device(
      v,
      [&](cuda::Stream stream) {
        if (finite != nullptr) *finite = all_finite(branches[0]);
        cuda::neuron(params, stream);
      },
      [&] {
        if (finite != nullptr && !params.branches[0].direct()) {
          *finite = all_finite(branches[0]);
          finite = nullptr;
        }
        run_on_cpu(params, finite);
      });
}

// Spikes that come back as current have no gradient.
std::vector<bool> results_of_neuron(Boxed a) {
  const NeuronArgs neurons = NeuronArgs::of(a, 1, 3);
  TORCH_CHECK_NOT_IMPLEMENTED(
      !neurons.feeds_back(), "neuron: spikes that come back as current have no gradient here; run the cycle");
  SurrogateSlope::of(a[20].toStringView(), a[21].toDouble());
  const bool synapse = neurons.has_synapse();
  return {true, true, synapse, a[18].toBool(), synapse && a[19].toBool()};
}

std::vector<Tensor> backward_of_neuron(const Backward& pass) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("neurocuda::neuron_backward", "");
  const Boxed same = pass.saved.slice(0, 16);  // up to `late`
  torch::jit::Stack stack(same.begin(), same.end());
  stack.insert(stack.end(), {pass.saved[20], pass.saved[21]});
  for (const Tensor& gradient : pass.gradients) stack.push_back(boxed_optional(gradient));
  c10::List<bool> needed;
  for (int at = 0; at < kGradients; ++at) needed.push_back(pass.needed[at]);
  stack.emplace_back(needed);
  op.callBoxed(stack);
  std::vector<Tensor> found;
  for (const c10::IValue& gradient : stack) found.push_back(gradient.toTensor());
  return found;
}

}  // namespace

NeuronOutputs recorded_neuron(const Recorded& recorded, Boxed a) {
  const std::vector<Tensor> branches = a[0].toTensorVector();
  const NeuronArgs neurons = NeuronArgs::of(a, 1, 3);
  auto dtype = a[16].toOptional<at::ScalarType>();
  const bool packed = a[17].toBool();
  neurons.check("neuron", branches);
  TORCH_CHECK_VALUE(!packed || (neurons.fires() && !neurons.many),
                    "neuron: packed bits hold spikes, at most one in a step");
  if (packed) dtype = at::kByte;
  const at::ScalarType type = neurons.output_type("neuron", branches, dtype);
  const NeuronOutputs outputs =
      allocate(branches, neurons.has_synapse(), type, packed, a[18].toBool(), a[19].toBool(), recorded);
  if (!neurons.v.is_meta()) run(branches, neurons, packed, outputs, recorded.finite);
  return outputs;
}

NeuronOutputs neuron(Boxed a) {
  NeuronOutputs outputs = recorded_neuron({}, a);
  for (Tensor& output : outputs) {
    if (!output.defined()) output = nothing(outputs[1].options());
  }
  return outputs;
}

Formula neuron_formula() { return {22, false, backward_of_neuron, results_of_neuron}; }

std::optional<BoundNeuron> BoundNeuron::of(at::TensorList branches, const NeuronArgs& neurons) {
  neurons.check("neuron", branches);
  const auto &v = neurons.v, &i = neurons.i;
  if (!std::all_of(branches.begin(), branches.end(), dense_floats) || !dense_floats(v)) return {};
  if ((i.defined() && !dense_floats(i)) || branches[0].numel() == 0) return {};
  // The memory is that of each call; a branch stands for the output, which has the same layout.
  const NeuronJob job = job_of(branches, neurons, false, {branches[0], v, i});
  if (any(job.copies)) return {};
  BoundNeuron bound;
  bound.params_ = job.params;
  return bound;
}

void BoundNeuron::operator()(const std::vector<const Tensor*>& branches, const Tensor& output,
                             const Tensor& v, const Tensor* i, std::atomic<bool>* finite) const {
  NeuronParams params = params_;
  for (std::size_t branch = 0; branch < branches.size(); ++branch)
    params.branches[branch].data = place_of(*branches[branch]);
  params.output.data = place_of(output);
  params.v.data = place_of(v);
  if (i != nullptr) params.i.data = place_of(*i);
  run_on_cpu(params, finite);
}

}  // namespace neurocuda
