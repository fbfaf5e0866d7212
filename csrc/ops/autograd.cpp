#include "ops/autograd.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <string>
#include <unordered_map>

#include "ops/operators.h"

namespace neurocuda {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const Formula& formula_of(const std::string& name) {
  static const std::unordered_map<std::string, Formula> formulas{
      {"neurocuda::neuron", neuron_formula()},
      {"neurocuda::recurrent_neuron", recurrent_neuron_formula()},
      {"neurocuda::branch_sum", branch_sum_formula()},
      {"neurocuda::ordered_linear", ordered_linear_formula()},
      {"neurocuda::ordered_conv", ordered_conv_formula()},
      {"neurocuda::sum_pool2d", sum_pool2d_formula()},
      {"neurocuda::avg_pool2d", avg_pool2d_formula()},
  };
  return formulas.at(name);
}

// How many tensors an argument is: the length of a list, or one of these.
constexpr std::int64_t kValue = -1, kTensor = -2;

// The tensors among the arguments of a call.
struct Tensors {
  variable_list tensors;
  std::vector<std::int64_t> counts;  // by argument

  explicit Tensors(Boxed arguments) {
    counts.reserve(arguments.size());
    for (const c10::IValue& value : arguments) {
      if (value.isTensorList()) {
        const variable_list list = value.toTensorVector();
        tensors.insert(tensors.end(), list.begin(), list.end());
        counts.push_back(static_cast<std::int64_t>(list.size()));
      } else {
        if (value.isTensor()) tensors.push_back(value.toTensor());
        counts.push_back(value.isTensor() ? kTensor : kValue);
      }
    }
  }
};

std::int64_t length(std::int64_t count) { return count == kTensor ? 1 : std::max<std::int64_t>(count, 0); }

// What the backward pass reads, besides tensors, in one list: compiled autograd takes numbers that stand
// alone for inputs. First the name of the operator and the counts, then the leading arguments.
c10::impl::GenericList saved_values(const c10::OperatorHandle& op, const Formula& formula, Boxed arguments,
                                    const std::vector<std::int64_t>& counts) {
  c10::impl::GenericList values(c10::AnyType::get());
  values.reserve(2 + formula.saved);
  values.push_back(op.schema().name());
  values.push_back(counts);
  for (std::size_t at = 0; at < formula.saved; ++at) {
    if (counts[at] == kValue) {
      values.push_back(arguments[at]);
    } else {
      values.push_back(formula.shapes ? c10::IValue(arguments[at].toTensor().sym_sizes()) : c10::IValue());
    }
  }
  return values;
}

// The leading arguments, from these values and the saved tensors.
std::vector<c10::IValue> saved_arguments(const c10::impl::GenericList& values,
                                         const std::vector<std::int64_t>& counts,
                                         const variable_list& tensors) {
  std::vector<c10::IValue> arguments;
  arguments.reserve(values.size() - 2);
  auto tensor = tensors.begin();
  for (std::size_t at = 0; at + 2 < values.size(); ++at) {
    c10::IValue value = values.get(2 + at);
    if (counts[at] == kTensor && value.isNone()) {
      value = *tensor++;
    } else if (counts[at] >= 0) {
      value = variable_list(tensor, tensor + counts[at]);
      tensor += counts[at];
    }
    arguments.push_back(std::move(value));
  }
  return arguments;
}

class Gradient : public torch::autograd::Function<Gradient> {
 public:
  static constexpr bool is_traceable = true;

  // Replaces the arguments at the end of the stack by the results.
  static variable_list forward(AutogradContext* context, at::TensorList tensors,
                               const std::vector<std::int64_t>& counts, const c10::OperatorHandle& op,
                               torch::jit::Stack& stack) {
    const Formula& formula = formula_of(op.schema().name());
    const Boxed arguments = torch::jit::last(stack, counts.size());
    std::vector<bool> differentiable(op.schema().returns().size(), true);
    if (formula.differentiable != nullptr) differentiable = formula.differentiable(arguments);
    std::int64_t saved = 0;
    for (std::size_t at = 0; !formula.shapes && at < formula.saved; ++at) saved += length(counts[at]);
    context->save_for_backward(tensors.slice(0, saved).vec());
    context->set_materialize_grads(false);
    context->saved_data["call"] = saved_values(op, formula, arguments, counts);
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      op.callBoxed(stack);
    }
    variable_list results, constant;
    for (const c10::IValue& result : torch::jit::last(stack, differentiable.size()))
      results.push_back(result.toTensor());
    torch::jit::drop(stack, results.size());
    for (std::size_t at = 0; at < results.size(); ++at) {
      if (!differentiable[at] || !at::isFloatingType(results[at].scalar_type()))
        constant.push_back(results[at]);
    }
    context->mark_non_differentiable(constant);
    return results;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto values = context->saved_data["call"].toList();
    const auto counts = values.get(1).toIntVector();
    Backward pass{{}, gradients, std::vector<bool>(counts.size(), false)};
    std::vector<std::size_t> argument_of;  // by tensor that needs a gradient; none else
    for (std::size_t at = 0; at < counts.size(); ++at) {
      for (std::int64_t tensor = 0; tensor < length(counts[at]); ++tensor) {
        const bool needed = context->needs_input_grad(argument_of.size());
        pass.needed[at] = pass.needed[at] || needed;
        argument_of.push_back(needed ? at : counts.size());
      }
    }
    variable_list results(argument_of.size() + 3);  // the last arguments of `forward` are no tensors
    if (std::none_of(gradients.begin(), gradients.end(), [](const Tensor& t) { return t.defined(); }))
      return results;
    const auto saved = saved_arguments(values, counts, context->get_saved_variables());
    pass.saved = saved;
    const variable_list found = formula_of(values.get(0).toStringRef()).backward(pass);
    for (std::size_t tensor = 0; tensor < argument_of.size(); ++tensor) {
      // Autograd itself converts to the type of the tensor.
      if (argument_of[tensor] < found.size()) results[tensor] = found[argument_of[tensor]];
    }
    return results;
  }
};

bool needs_gradient(const c10::IValue& value) {
  const auto of_tensor = [](const Tensor& t) { return t.requires_grad() || t._fw_grad(0).defined(); };
  if (value.isTensor()) return of_tensor(value.toTensor());
  if (!value.isTensorList()) return false;
  const variable_list tensors = value.toTensorVector();
  return std::any_of(tensors.begin(), tensors.end(), of_tensor);
}

}  // namespace

void with_gradient(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const Boxed arguments = torch::jit::last(*stack, op.schema().arguments().size());
  if (!at::GradMode::is_enabled() || std::none_of(arguments.begin(), arguments.end(), needs_gradient)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return op.callBoxed(*stack);
  }
  const Tensors call(arguments);
  for (Tensor& result : Gradient::apply(at::TensorList(call.tensors), call.counts, op, *stack))
    stack->emplace_back(std::move(result));
}

}  // namespace neurocuda
