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

// Values as autograd saves them: tensors in one list, and the rest, with None in the place of tensors.
// `counts` has the length of a list of tensors, or one of these.
constexpr std::int64_t kValue = -1, kTensor = -2;

struct Split {
  variable_list tensors;
  std::vector<std::int64_t> counts;
  c10::impl::GenericList rest{c10::AnyType::get()};

  explicit Split(Boxed values) {
    for (const c10::IValue& value : values) {
      if (value.isTensorList()) {
        const variable_list list = value.toTensorVector();
        tensors.insert(tensors.end(), list.begin(), list.end());
        counts.push_back(static_cast<std::int64_t>(list.size()));
      } else {
        if (value.isTensor()) tensors.push_back(value.toTensor());
        counts.push_back(value.isTensor() ? kTensor : kValue);
      }
      rest.push_back(counts.back() == kValue ? value : c10::IValue());
    }
  }
};

std::vector<c10::IValue> joined(const variable_list& tensors, const std::vector<std::int64_t>& counts,
                                const c10::impl::GenericList& rest) {
  std::vector<c10::IValue> values;
  auto tensor = tensors.begin();
  for (std::size_t at = 0; at < counts.size(); ++at) {
    if (counts[at] == kValue) {
      values.push_back(rest.get(at));
    } else if (counts[at] == kTensor) {
      values.emplace_back(*tensor++);
    } else {
      values.emplace_back(variable_list(tensor, tensor + counts[at]));
      tensor += counts[at];
    }
  }
  return values;
}

class Gradient : public torch::autograd::Function<Gradient> {
 public:
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* context, at::TensorList /*tensors*/,
                               const c10::OperatorHandle& op, torch::jit::Stack& arguments) {
    const Formula& formula = formula_of(op.schema().name());
    std::vector<bool> differentiable(op.schema().returns().size(), true);
    if (formula.differentiable != nullptr) differentiable = formula.differentiable(arguments);
    const Split saved(formula.save(arguments));
    context->save_for_backward(saved.tensors);
    context->set_materialize_grads(false);
    context->saved_data["operator"] = op.schema().name();
    context->saved_data["arguments"] = Split(arguments).counts;
    context->saved_data["counts"] = saved.counts;
    context->saved_data["rest"] = saved.rest;
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      op.callBoxed(arguments);
    }
    variable_list results, constant;
    for (const c10::IValue& result : arguments) results.push_back(result.toTensor());
    for (std::size_t at = 0; at < results.size(); ++at) {
      if (!differentiable[at] || !at::isFloatingType(results[at].scalar_type()))
        constant.push_back(results[at]);
    }
    context->mark_non_differentiable(constant);
    return results;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    auto& data = context->saved_data;
    const auto arguments = data["arguments"].toIntVector();
    const std::vector<c10::IValue> saved =
        joined(context->get_saved_variables(), data["counts"].toIntVector(), data["rest"].toList());
    Backward pass{saved, gradients, {}};
    std::vector<std::size_t> argument_of;  // by tensor
    for (std::size_t at = 0; at < arguments.size(); ++at) {
      const std::int64_t count = arguments[at] == kTensor ? 1 : std::max<std::int64_t>(arguments[at], 0);
      pass.needed.push_back(false);
      for (std::int64_t tensor = 0; tensor < count; ++tensor) {
        pass.needed[at] = pass.needed[at] || context->needs_input_grad(argument_of.size());
        argument_of.push_back(at);
      }
    }
    variable_list results(argument_of.size() + 2);  // the last belong to the operator and the stack
    if (std::none_of(gradients.begin(), gradients.end(), [](const Tensor& t) { return t.defined(); }))
      return results;
    const variable_list found = formula_of(data["operator"].toStringRef()).backward(pass);
    for (std::size_t tensor = 0; tensor < argument_of.size(); ++tensor) {
      const std::size_t at = argument_of[tensor];  // autograd itself converts to the type of the tensor
      if (at < found.size() && context->needs_input_grad(tensor)) results[tensor] = found[at];
    }
    return results;
  }
};

bool needs_gradient(const c10::IValue& value) {
  const auto of_tensor = [](const Tensor& t) { return t.requires_grad() || t._fw_grad(0).defined(); };
  if (value.isTensor()) return of_tensor(value.toTensor());
  if (!value.isTensorList()) return false;
  const std::vector<Tensor> tensors = value.toTensorVector();
  return std::any_of(tensors.begin(), tensors.end(), of_tensor);
}

}  // namespace

void with_gradient(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const Boxed arguments = torch::jit::last(*stack, op.schema().arguments().size());
  if (!at::GradMode::is_enabled() || std::none_of(arguments.begin(), arguments.end(), needs_gradient)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return op.callBoxed(*stack);
  }
  const variable_list tensors = Split(arguments).tensors;
  torch::jit::Stack own = arguments.vec();
  torch::jit::drop(*stack, arguments.size());
  for (Tensor& result : Gradient::apply(at::TensorList(tensors), op, own))
    stack->emplace_back(std::move(result));
}

}  // namespace neurocuda
