// The operators of torch.ops.neurocuda: their schemas, and which kernels serve them.

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include "ops/operators.h"

namespace neurocuda {
namespace {

TORCH_LIBRARY_FRAGMENT(neurocuda, m) {
  // The output is [T, B, *shape] of type `dtype`, by default that of the branches, or bits [T, bytes]; then
  // come the state after the last step, and after every step where requested. Absent results are empty.
  m.def(
      "neuron(Tensor[] branches, Tensor v, Tensor? i, Tensor decay_v, Tensor gain_v, Tensor bias_v, "
      "Tensor? decay_i, Tensor? gain_i, Tensor? threshold, Tensor? v_reset, Tensor? v_min=None, bool "
      "reaching=False, "
      "bool subtract=False, bool previous=False, bool many=False, bool late=False, ScalarType? dtype=None, "
      "bool packed=False, "
      "bool trace_v=False, bool trace_i=False, str surrogate='fast-sigmoid', float slope=10.) "
      "-> (Tensor output, Tensor v, Tensor i, Tensor trace_v, Tensor trace_i)");
  // of_*: the gradients that arrive at the outputs of `neuron`. wanted: which results are requested; the
  // others are empty. to_branches is that of every branch.
  m.def(
      "neuron_backward(Tensor[] branches, Tensor v, Tensor? i, Tensor decay_v, Tensor gain_v, Tensor bias_v, "
      "Tensor? decay_i, Tensor? gain_i, Tensor? threshold, Tensor? v_reset, Tensor? v_min=None, *, bool "
      "reaching=False, "
      "bool subtract=False, bool previous=False, bool many=False, bool late=False, str "
      "surrogate='fast-sigmoid', "
      "float slope=10., Tensor? of_output=None, Tensor? of_v=None, Tensor? of_i=None, "
      "Tensor? of_trace_v=None, Tensor? of_trace_i=None, bool[11] wanted) -> (Tensor to_branches, "
      "Tensor to_v, Tensor to_i, Tensor to_decay_v, Tensor to_gain_v, Tensor to_bias_v, Tensor to_decay_i, "
      "Tensor to_gain_i, Tensor to_threshold, Tensor to_v_reset, Tensor to_v_min)");
  // branches [T, B, *batch, N], weight [*batch, N, N], bias of a shape that broadcasts to [*batch, N]; spikes
  // [B, *batch, N] are those of the step before the first. The recurrent current, summed as `ordered_linear`
  // does, is added before branch `place`. Returns the output [T, B, *batch, N] of type `dtype`, by default
  // that of the branches, the state and spikes after the last step, and traces; absent results are empty.
  // `prepacked`: ordered_linear_prepack(weight), to spare the time.
  m.def(
      "recurrent_neuron(Tensor[] branches, int place, Tensor weight, Tensor? bias, Tensor v, Tensor? i, "
      "Tensor spikes, Tensor decay_v, Tensor gain_v, Tensor bias_v, Tensor? decay_i, Tensor? gain_i, "
      "Tensor? threshold, Tensor? v_reset, Tensor? v_min=None, bool reaching=False, bool subtract=False, "
      "bool previous=False, "
      "bool many=False, bool late=False, ScalarType? dtype=None, bool trace_v=False, bool trace_i=False, "
      "bool trace_recurrent=False, str surrogate='fast-sigmoid', float slope=10., Tensor? prepacked=None) "
      "-> (Tensor output, Tensor v, Tensor i, Tensor spikes, Tensor trace_v, Tensor trace_i, "
      "Tensor trace_recurrent)");
  // As of `neuron_backward`.
  m.def(
      "recurrent_neuron_backward(Tensor[] branches, int place, Tensor weight, Tensor? bias, Tensor v, "
      "Tensor? i, Tensor spikes, Tensor decay_v, Tensor gain_v, Tensor bias_v, Tensor? decay_i, "
      "Tensor? gain_i, Tensor? threshold, Tensor? v_reset, Tensor? v_min=None, *, bool reaching=False, bool "
      "subtract=False, "
      "bool previous=False, bool many=False, bool late=False, str surrogate='fast-sigmoid', float slope=10., "
      "Tensor? of_output=None, Tensor? of_v=None, Tensor? of_i=None, Tensor? of_spikes=None, "
      "Tensor? of_trace_v=None, Tensor? of_trace_i=None, Tensor? of_trace_recurrent=None, bool[14] wanted) "
      "-> (Tensor to_branches, Tensor to_weight, Tensor to_bias, Tensor to_v, Tensor to_i, "
      "Tensor to_spikes, Tensor to_decay_v, Tensor to_gain_v, Tensor to_bias_v, Tensor to_decay_i, "
      "Tensor to_gain_i, Tensor to_threshold, Tensor to_v_reset, Tensor to_v_min)");
  m.def("branch_sum(Tensor[] branches) -> Tensor");
  m.def(
      "ordered_linear(Tensor x, Tensor weight, Tensor? bias=None, *, Tensor? prepacked=None, "
      "str route='measured') -> Tensor");
  m.def("ordered_linear_prepack(Tensor weight) -> Tensor");
  m.def(
      "ordered_conv(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] pads, int[] dilation, "
      "int groups, *, Tensor? prepacked=None, str route='measured') -> Tensor");
  m.def("ordered_conv_prepack(Tensor weight, int groups) -> Tensor");
  m.def("sum_pool2d(Tensor x, int[2] kernel, int[2] stride, int[2] padding) -> Tensor");
  m.def("avg_pool2d(Tensor x, int[2] kernel, int[2] stride, int[2] padding) -> Tensor");
  // [T, B, *shape] to [T, bytes], along the axes after the first as one; any value but zero is a spike.
  m.def("pack_spikes(Tensor spikes) -> Tensor");
  // The reverse; `shape` is [B, *shape].
  m.def("unpack_spikes(Tensor bits, SymInt[] shape, *, ScalarType dtype=float) -> Tensor");
  m.def("empty(SymInt[] size, *, Device? device=None) -> Tensor");
}

template <auto function>
torch::CppFunction kernel() {
  return torch::CppFunction::makeFromBoxedFunction<&boxed_kernel<function>>();
}

void implement(torch::Library& m) {
  m.impl("neuron", kernel<neuron>());
  m.impl("neuron_backward", kernel<neuron_backward>());
  m.impl("recurrent_neuron", kernel<recurrent_neuron>());
  m.impl("recurrent_neuron_backward", kernel<recurrent_neuron_backward>());
  m.impl("branch_sum", kernel<branch_sum>());
  m.impl("ordered_linear", kernel<ordered_linear>());
  m.impl("ordered_linear_prepack", kernel<ordered_linear_prepack>());
  m.impl("ordered_conv", kernel<ordered_conv>());
  m.impl("ordered_conv_prepack", kernel<ordered_conv_prepack>());
  m.impl("sum_pool2d", kernel<sum_pool2d>());
  m.impl("avg_pool2d", kernel<avg_pool2d>());
  m.impl("pack_spikes", kernel<pack_spikes>());
  m.impl("unpack_spikes", kernel<unpack_spikes>());
  m.impl("empty", kernel<empty>());
}

TORCH_LIBRARY_IMPL(neurocuda, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(neurocuda, Meta, m) { implement(m); }
#if defined(NEUROCUDA_WITH_CUDA)
TORCH_LIBRARY_IMPL(neurocuda, CUDA, m) { implement(m); }
#endif

TORCH_LIBRARY_IMPL(neurocuda, Autograd, m) {
  for (const char* name : {"neuron", "recurrent_neuron", "branch_sum", "ordered_linear", "ordered_conv",
                           "sum_pool2d", "avg_pool2d"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&with_gradient>());
  }
  m.impl("neuron_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("recurrent_neuron_backward", torch::autograd::autogradNotImplementedFallback());
}

// There is no tensor among the arguments whose device would choose the kernel.
void empty_by_device(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto device = stack->back().toOptional<c10::Device>().value_or(c10::kCPU);
  const auto key = c10::computeDispatchKey(std::nullopt, std::nullopt, device);
  op.redispatchBoxed(c10::DispatchKeySet(key), stack);
}

TORCH_LIBRARY_IMPL(neurocuda, BackendSelect, m) {
  m.impl("empty", torch::CppFunction::makeFromBoxedFunction<&empty_by_device>());
}

}  // namespace
}  // namespace neurocuda
