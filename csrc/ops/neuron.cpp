// neuron: sums branches and updates a population over time in one pass.

#include "ops/neuron.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "cpu/neuron.h"
#include "ops/checks.h"
#include "ops/on_device.h"

namespace neurocuda {

NeuronKind Population::kind() const {
  const Synapse synapse = !has_synapse() ? Synapse::kNone : previous ? Synapse::kPrevious : Synapse::kUpdated;
  const Fires fires = !this->fires() ? Fires::kNever
                      : many         ? Fires::kMany
                      : reaching     ? Fires::kReaching
                                     : Fires::kAbove;
  return {synapse, fires, feeds_back() ? Reset::kFeedback : subtract ? Reset::kSubtract : Reset::kToValue};
}

const at::Tensor* Population::coefficient(int name) const {
  const auto given = [](const std::optional<at::Tensor>& tensor) { return tensor ? &*tensor : nullptr; };
  switch (name) {
    case kDecayV:
      return &decay_v;
    case kGainV:
      return &gain_v;
    case kBiasV:
      return &bias_v;
    case kDecayI:
      return given(decay_i);
    case kGainI:
      return given(gain_i);
    case kThreshold:
      return given(threshold);
    default:
      return given(v_reset);
  }
}

void Population::check(const char* op, at::TensorList branches) const {
  check_branches(op, branches);
  TORCH_CHECK_VALUE(decay_i.has_value() == gain_i.has_value() && i.has_value() == gain_i.has_value(), op,
                    ": expected i, decay_i and gain_i, or none of them");
  TORCH_CHECK_VALUE(threshold.has_value() || !v_reset.has_value(), op, ": expected a threshold with v_reset");
  TORCH_CHECK_VALUE(!feeds_back() || (has_synapse() && !previous && !many), op,
                    ": expected v_reset, or i, decay_i and gain_i as the spikes that come back, with neither "
                    "previous nor many");
  const auto shape = branches[0].sym_sizes().slice(1);
  const auto check = [&](const char* name, const at::Tensor& tensor) {
    TORCH_CHECK_VALUE(tensor.scalar_type() == at::kFloat, op, ": expected ", name, " in float32, found ",
                      name_of(tensor.scalar_type()));
    TORCH_CHECK_VALUE(tensor.device() == branches[0].device(), op, ": expected ", name, " on ",
                      branches[0].device(), ", found it on ", tensor.device());
  };
  for (const auto& [name, tensor] : {std::pair("v", &v), std::pair("i", i ? &*i : nullptr)}) {
    if (tensor == nullptr) continue;
    check(name, *tensor);
    TORCH_CHECK_VALUE(tensor->sym_sizes() == shape, op, ": expected ", name, " of shape ", shape, ", found ",
                      tensor->sym_sizes());
  }
  static constexpr const char* names[] = {"decay_v", "gain_v",    "bias_v", "decay_i",
                                          "gain_i",  "threshold", "v_reset"};
  for (int name = 0; name < kCoefficients; ++name) {
    const at::Tensor* tensor = coefficient(name);
    if (tensor == nullptr) continue;
    check(names[name], *tensor);
    const auto own = tensor->sym_sizes();
    bool fits = own.size() <= shape.size();
    for (std::size_t axis = 0; fits && axis < own.size(); ++axis) {
      fits = own[axis] == 1 || own[axis] == shape[shape.size() - own.size() + axis];
    }
    TORCH_CHECK_VALUE(fits, op, ": expected ", names[name], " of a shape that broadcasts to ", shape,
                      ", found ", own);
  }
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

// The type of the output that `dtype` asks for: by default that of the branches.
at::ScalarType output_type(at::TensorList branches, const Population& population,
                           std::optional<at::ScalarType> dtype, bool packed) {
  const char* op = "neuron";
  TORCH_CHECK_VALUE(!packed || (population.fires() && !population.many), op,
                    ": packed bits hold spikes, at most one in a step");
  if (packed) return at::kByte;
  at::ScalarType type = branches[0].scalar_type();
  for (const Tensor& branch : branches) type = at::promoteTypes(type, branch.scalar_type());
  if (!dtype && !population.fires() && !at::isFloatingType(type)) type = at::kFloat;
  type = dtype.value_or(type);
  TORCH_CHECK_VALUE(readable(type), op,
                    ": expected an output of float32, float16, bfloat16, uint8 or bool, found ",
                    name_of(type));
  TORCH_CHECK_VALUE(population.fires() || at::isFloatingType(type), op,
                    ": a membrane potential does not fit in ", name_of(type));
  TORCH_CHECK_VALUE(!(population.many && type == at::kBool), op, ": a count of spikes does not fit in ",
                    name_of(type));
  return type;
}

// [T, bytes that hold B * shape bits].
std::vector<c10::SymInt> packed_shape(c10::SymIntArrayRef sizes) {
  c10::SymInt neurons = 1;
  for (std::size_t axis = 1; axis < sizes.size(); ++axis) neurons = neurons * sizes[axis];
  return {sizes[0], (neurons + 7) / 8};
}

// `spare`, if a tensor made as `fresh` would make it has its place.
Tensor reused(const Tensor& spare, c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides,
              const at::TensorOptions& options) {
  const bool fits = spare.defined() && spare.sym_sizes() == sizes &&
                    spare.scalar_type() == c10::typeMetaToScalarType(options.dtype()) &&
                    (strides.empty() ? spare.is_contiguous() : spare.sym_strides() == strides);
  return fits ? spare : fresh(sizes, strides, options);
}

// Tensors for all that the operator returns, fresh unless they are spare; what is not asked for is empty.
NeuronOutputs allocate(at::TensorList branches, const Population& population, at::ScalarType type,
                       bool packed, bool trace_v, bool trace_i, const Recorded& spare) {
  const auto options = branches[0].options();
  const auto floats = options.dtype(at::kFloat);
  const auto sizes = branches[0].sym_sizes();
  const c10::SymIntArrayRef strides = packed ? c10::SymIntArrayRef() : output_strides(branches);
  const Tensor output = packed ? fresh(packed_shape(sizes), {}, options.dtype(at::kByte))
                               : reused(spare.output, sizes, strides, options.dtype(type));
  const auto absent = [&] { return spare.undefined ? Tensor() : nothing(floats); };
  const auto trace = [&](bool wanted) { return wanted ? fresh(sizes, strides, floats) : absent(); };
  const std::vector<c10::SymInt> of_state = state_strides(strides, sizes[0]);
  const auto state = [&](const Tensor& before) { return reused(before, sizes.slice(1), of_state, floats); };
  const bool synapse = population.has_synapse();
  return {output, state(spare.v), synapse ? state(spare.i) : absent(), trace(trace_v),
          trace(trace_i && synapse)};
}

// What the kernels are asked, and the tensors that it points into.
struct Job {
  Order order;
  NeuronParams call;
  Copies copies;
};

Job job_of(at::TensorList branches, const Population& population, bool packed, const Tensor& output,
           const Tensor& v, const Tensor* i, const Tensor* trace_v, const Tensor* trace_i) {
  const auto sizes = v.sizes();
  Job job{packed ? order_of(sizes) : order_of(sizes, output.strides().slice(1)), {}, {}};
  const Order& order = job.order;
  NeuronParams& call = job.call;
  describe(branches, population, order, call, job.copies);
  call.neurons = order.neurons;
  call.v = signal_of(v, false, order);
  if (i != nullptr) call.i = signal_of(*i, false, order);
  call.packed = packed;
  if (packed) {
    call.output.data = static_cast<char*>(output.mutable_data_ptr());
    call.output.type = Element::kUInt8;
    call.output.time_stride = output.stride(0);
  } else {
    call.output = signal_of(output, true, order);
  }
  if (trace_v != nullptr) call.trace_v = signal_of(*trace_v, true, order);
  if (trace_i != nullptr) call.trace_i = signal_of(*trace_i, true, order);
  return job;
}

template <class Call, class Function>
void each_signal(Call& call, Function function) {
  for (int branch = 0; branch < call.branch_count; ++branch) function(call.branches[branch]);
  for (auto* signal : {&call.v, &call.i, &call.output, &call.trace_v, &call.trace_i}) {
    if (signal->data != nullptr) function(*signal);
  }
}

// How many neurons one sample has where samples lie one after the other, each over all steps, as they are
// then run; all of them where they do not.
std::int64_t neurons_of_sample(const NeuronParams& call) {
  std::int64_t found = call.neurons;
  each_signal(call, [&](const Signal& signal) {
    if (!signal.dense && signal.axes == 2) found = std::min(found, signal.sizes[1]);
  });
  if (found == call.neurons) return found;
  bool possible = !call.packed && call.neurons % found == 0;
  each_signal(call, [&](const Signal& signal) {
    possible = possible && (signal.dense || (signal.axes == 2 && signal.sizes[1] == found &&
                                             signal.strides[1] == size_of(signal.type)));
  });
  for (const Coefficient& c : call.coefficients) {
    possible = possible && (c.values == nullptr || found % (c.inner * c.count) == 0);
  }
  return possible ? found : call.neurons;
}

NeuronParams of_sample(const NeuronParams& call, std::int64_t sample, std::int64_t neurons) {
  NeuronParams own = call;
  own.neurons = neurons;
  each_signal(own, [&](Signal& signal) {
    signal.data += sample * (signal.dense ? neurons * size_of(signal.type) : signal.strides[0]);
    signal.dense = true;
  });
  return own;
}

void run_on_cpu(const NeuronParams& call, std::atomic<bool>* finite) {
  const std::int64_t neurons = neurons_of_sample(call);
  const std::int64_t units = (neurons + cpu::kNeuronGrain - 1) / cpu::kNeuronGrain;
  const auto all = units * (call.neurons / neurons);
  at::parallel_for(0, all, grain(call.steps), [&](std::int64_t first, std::int64_t last) {
    while (first < last) {
      const std::int64_t sample = first / units, from = first % units,
                         to = std::min(units, from + last - first);
      const auto run = [&](const NeuronParams& own) {
        cpu::neuron(own, from * cpu::kNeuronGrain, std::min(to * cpu::kNeuronGrain, neurons), finite);
      };
      if (neurons == call.neurons) {
        run(call);
      } else {
        run(of_sample(call, sample, neurons));
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

void run(at::TensorList branches, const Population& population, bool packed, const Tensor& output,
         const Tensor& v, const Tensor* i, const Tensor* trace_v, const Tensor* trace_i,
         std::atomic<bool>* finite = nullptr) {
  Job job = job_of(branches, population, packed, output, v, i, trace_v, trace_i);
  NeuronParams& call = job.call;
  call.v_before = before(population.v, v, job.order, call.steps);
  if (i != nullptr) call.i_before = before(*population.i, *i, job.order, call.steps);
  if (call.steps == 0 || call.neurons == 0) return;
  on_device(
      v,
      [&](cuda::Stream stream) {
        if (finite != nullptr) *finite = all_finite(branches[0]);
        cuda::neuron(call, stream);
      },
      [&] {
        if (finite != nullptr && !call.branches[0].direct()) {
          *finite = all_finite(branches[0]);
          finite = nullptr;
        }
        run_on_cpu(call, finite);
      });
}

}  // namespace

// The operator, on CPU tensors and, without the values, on Meta tensors. The surrogate is for autograd alone.
NeuronOutputs neuron(at::TensorList branches, const Tensor& v, const MaybeTensor& i, const Tensor& decay_v,
                     const Tensor& gain_v, const Tensor& bias_v, const MaybeTensor& decay_i,
                     const MaybeTensor& gain_i, const MaybeTensor& threshold, const MaybeTensor& v_reset,
                     bool reaching, bool subtract, bool previous, bool many,
                     std::optional<at::ScalarType> dtype, bool packed, bool trace_v, bool trace_i,
                     c10::string_view surrogate, double slope) {
  return recorded_neuron({{}, {}, {}, nullptr, false}, branches, v, i, decay_v, gain_v, bias_v, decay_i,
                         gain_i, threshold, v_reset, reaching, subtract, previous, many, dtype, packed,
                         trace_v, trace_i, surrogate, slope);
}

NeuronOutputs recorded_neuron(const Recorded& recorded, at::TensorList branches, const Tensor& v,
                              const MaybeTensor& i, const Tensor& decay_v, const Tensor& gain_v,
                              const Tensor& bias_v, const MaybeTensor& decay_i, const MaybeTensor& gain_i,
                              const MaybeTensor& threshold, const MaybeTensor& v_reset, bool reaching,
                              bool subtract, bool previous, bool many, std::optional<at::ScalarType> dtype,
                              bool packed, bool trace_v, bool trace_i, c10::string_view /*surrogate*/,
                              double /*slope*/) {
  const Population population{v,         i,       decay_v,  gain_v,   bias_v,   decay_i, gain_i,
                              threshold, v_reset, reaching, subtract, previous, many};
  population.check("neuron", branches);
  const at::ScalarType type = output_type(branches, population, dtype, packed);
  NeuronOutputs outputs = allocate(branches, population, type, packed, trace_v, trace_i, recorded);
  if (v.is_meta()) return outputs;
  auto& [output, new_v, new_i, all_v, all_i] = outputs;
  run(branches, population, packed, output, new_v, i ? &new_i : nullptr, trace_v ? &all_v : nullptr,
      trace_i && i ? &all_i : nullptr, recorded.finite);
  return outputs;
}

std::optional<ReadyNeuron> ReadyNeuron::of(at::TensorList branches, const Population& population) {
  population.check("neuron", branches);
  const Tensor* const i = population.i ? &*population.i : nullptr;
  if (!std::all_of(branches.begin(), branches.end(), dense_floats) || !dense_floats(population.v)) return {};
  if ((i != nullptr && !dense_floats(*i)) || branches[0].numel() == 0) return {};
  // The memory is that of each call; a branch stands for the output, which is laid out alike.
  const Job job = job_of(branches, population, false, branches[0], population.v, i, nullptr, nullptr);
  if (any(job.copies)) return {};
  ReadyNeuron ready;
  ready.call_ = job.call;
  return ready;
}

void ReadyNeuron::operator()(const std::vector<const Tensor*>& branches, const Tensor& output,
                             const Tensor& v, const Tensor* i, std::atomic<bool>* finite) const {
  NeuronParams call = call_;
  for (std::size_t branch = 0; branch < branches.size(); ++branch)
    call.branches[branch].data = place_of(*branches[branch]);
  call.output.data = place_of(output);
  call.v.data = place_of(v);
  if (i != nullptr) call.i.data = place_of(*i);
  run_on_cpu(call, finite);
}

namespace {

void check_out(at::TensorList branches, const Population& population, bool packed, const Tensor& out,
               const MaybeTensor& trace_v, const MaybeTensor& trace_i) {
  population.check("neuron", branches);
  const at::ScalarType type = output_type(branches, population, out.scalar_type(), packed);
  const auto check = [&](const char* name, const Tensor& tensor, at::ScalarType expected,
                         c10::SymIntArrayRef sizes) {
    TORCH_CHECK_VALUE(tensor.scalar_type() == expected && tensor.device() == branches[0].device(),
                      "neuron: expected ", name, " in ", name_of(expected), " on ", branches[0].device(),
                      ", found ", tensor.scalar_type(), " on ", tensor.device());
    TORCH_CHECK_VALUE(tensor.sym_sizes() == sizes, "neuron: expected ", name, " of shape ", sizes, ", found ",
                      tensor.sym_sizes());
  };
  const auto sizes = branches[0].sym_sizes();
  if (packed) {
    check("out", out, type, packed_shape(sizes));
    TORCH_CHECK_VALUE(out.sym_stride(1) == 1 || out.sym_size(1) <= 1,
                      "neuron: packed bits need rows without gaps");
  } else {
    check("out", out, type, sizes);
  }
  if (trace_v) check("trace_v", *trace_v, at::kFloat, sizes);
  if (trace_i) check("trace_i", *trace_i, at::kFloat, sizes);
  TORCH_CHECK_VALUE(!trace_i || population.has_synapse(), "neuron: there is no current to trace");
}

// What is written may not overlap what is read, but the output may take the place of a branch.
void check_memory(at::TensorList branches, const Population& population, const Tensor& out,
                  std::initializer_list<const MaybeTensor*> written) {
  at::assert_no_internal_overlap(out);
  for (const Tensor& branch : branches) at::assert_no_partial_overlap(out, branch);
  for (const MaybeTensor* tensor : written) {
    if (!tensor->has_value()) continue;
    at::assert_no_internal_overlap(**tensor);
    at::assert_no_overlap(**tensor, out);
    for (const Tensor& branch : branches) at::assert_no_overlap(**tensor, branch);
    for (const MaybeTensor* other : written) {
      if (other != tensor && other->has_value()) at::assert_no_overlap(**tensor, **other);
    }
  }
  for (int name = 0; name < kCoefficients; ++name) {
    const Tensor* coefficient = population.coefficient(name);
    if (coefficient == nullptr) continue;
    at::assert_no_overlap(out, *coefficient);
    for (const MaybeTensor* tensor : written) {
      if (tensor->has_value()) at::assert_no_overlap(**tensor, *coefficient);
    }
  }
}

void neuron_out(at::TensorList branches, const Tensor& v, const MaybeTensor& i, const Tensor& decay_v,
                const Tensor& gain_v, const Tensor& bias_v, const MaybeTensor& decay_i,
                const MaybeTensor& gain_i, const MaybeTensor& threshold, const MaybeTensor& v_reset,
                bool reaching, bool subtract, bool previous, bool many, bool packed, const Tensor& out,
                const MaybeTensor& trace_v, const MaybeTensor& trace_i) {
  const Population population{v,         i,       decay_v,  gain_v,   bias_v,   decay_i, gain_i,
                              threshold, v_reset, reaching, subtract, previous, many};
  check_out(branches, population, packed, out, trace_v, trace_i);
  if (v.is_meta()) return;
  const MaybeTensor state = v;
  check_memory(branches, population, out, {&state, &i, &trace_v, &trace_i});
  run(branches, population, packed, out, v, i ? &*i : nullptr, trace_v ? &*trace_v : nullptr,
      trace_i ? &*trace_i : nullptr);
  mark_written(out);
  for (const MaybeTensor* tensor : {&state, &i, &trace_v, &trace_i}) {
    if (tensor->has_value()) mark_written(**tensor);
  }
}

TORCH_LIBRARY_FRAGMENT(neurocuda, m) {
  // The output is [T, B, *shape] of type `dtype`, by default that of the branches, or bits [T, bytes]; then
  // come the state after the last step, and after every step where asked for. What there is not is empty.
  m.def(
      "neuron(Tensor[] branches, Tensor v, Tensor? i, Tensor decay_v, Tensor gain_v, Tensor bias_v, "
      "Tensor? decay_i, Tensor? gain_i, Tensor? threshold, Tensor? v_reset, bool reaching=False, "
      "bool subtract=False, bool previous=False, bool many=False, ScalarType? dtype=None, bool packed=False, "
      "bool trace_v=False, bool trace_i=False, str surrogate='fast-sigmoid', float slope=10.) "
      "-> (Tensor output, Tensor v, Tensor i, Tensor trace_v, Tensor trace_i)");
  // The state is updated in place; `out` may be a branch.
  m.def(
      "neuron.out(Tensor[] branches, Tensor(a!) v, Tensor(b!)? i, Tensor decay_v, Tensor gain_v, "
      "Tensor bias_v, Tensor? decay_i, Tensor? gain_i, Tensor? threshold, Tensor? v_reset, bool "
      "reaching=False, "
      "bool subtract=False, bool previous=False, bool many=False, bool packed=False, *, Tensor(c!) out, "
      "Tensor(d!)? trace_v=None, Tensor(e!)? trace_i=None) -> ()");
}

void implement(torch::Library& m) {
  m.impl("neuron", neuron);
  m.impl("neuron.out", neuron_out);
}

NEUROCUDA_IMPLEMENT(implement)
TORCH_LIBRARY_IMPL(neurocuda, Meta, m) { implement(m); }

}  // namespace

}  // namespace neurocuda
