#include "runtime/program.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/view_native.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "ops/checks.h"
#include "ops/neuron.h"
#include "runtime/bound_call.h"

namespace neurocuda {
namespace {

// The only call that reads a slot; the end if none or several do.
std::vector<Call>::iterator only_reader(int slot, std::vector<Call>& calls) {
  auto found = calls.end();
  for (auto call = calls.begin(); call != calls.end(); ++call) {
    for (const Argument& argument : call->arguments) {
      if (std::find(argument.slots.begin(), argument.slots.end(), slot) == argument.slots.end()) continue;
      if (found != calls.end()) return calls.end();
      found = call;
    }
  }
  return found;
}

using Clock = std::chrono::steady_clock;

bool fits(const BoundCall& ready, const std::vector<at::Tensor>& slots) {
  return ready.run && std::all_of(ready.contiguous.begin(), ready.contiguous.end(),
                                  [&](int slot) { return slots[slot].is_contiguous(); });
}

const void* memory(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()->data();
}

bool must_look(const at::Tensor& tensor) { return tensor.is_floating_point() && tensor.numel() > 0; }

}  // namespace

int Program::new_slot() {
  constants_.emplace_back();
  return static_cast<int>(constants_.size()) - 1;
}

int Program::constant(at::Tensor tensor) {
  constants_.push_back(std::move(tensor));
  return static_cast<int>(constants_.size()) - 1;
}

void Program::add(Call call) {
  TORCH_CHECK(results_.empty(), "a finished program takes no more calls");
  const std::string& name = call.op.schema().name();
  const bool plain = call.op.schema().overload_name().empty();
  if (plain && name == "aten::view" && call.arguments[0].kind == Argument::Kind::kSlot &&
      call.arguments[1].value.isIntList()) {
    call.way = Call::Way::kView;
    call.sizes = call.arguments[1].value.toIntVector();
  } else if (plain && name == "neurocuda::neuron") {
    call.way = Call::Way::kNeuron;
  }
  calls_.push_back(std::move(call));
}

void Program::finish(std::vector<int> results, int finite) {
  results_ = std::move(results);
  for (std::size_t slot = 0; slot < constants_.size(); ++slot) {
    if (constants_[slot].defined()) all_.push_back(static_cast<int>(slot));
  }
  for (int slot = 0; slot < finite; ++slot) {
    const auto reader = only_reader(slot, calls_);
    const bool neuron = reader != calls_.end() && reader->way == Call::Way::kNeuron &&
                        reader->arguments[0].slots == std::vector<int>{slot};
    if (neuron) reader->checks = true;
    if (!neuron) finite_.push_back(slot);
  }
  std::vector<bool> kept(constants_.size(), false);
  for (std::size_t slot = 0; slot < constants_.size(); ++slot) {
    kept[slot] = slot < inputs_ || constants_[slot].defined();
  }
  for (const int slot : results_) kept[slot] = true;
  for (auto call = calls_.rbegin(); call != calls_.rend(); ++call) {
    const auto last_use = [&](int slot) {
      if (kept[slot]) return;
      kept[slot] = true;  // it was a later call that read it last
      call->spent.push_back(slot);
    };
    for (const Argument& argument : call->arguments) {
      std::for_each(argument.slots.begin(), argument.slots.end(), last_use);
    }
    std::for_each(call->outputs.begin(), call->outputs.end(), last_use);
  }
}

std::optional<std::vector<at::Tensor>> Program::run(
    std::vector<at::Tensor> inputs, std::vector<std::pair<std::string, double>>* times) const {
  TORCH_CHECK(inputs.size() == inputs_, "expected ", inputs_, " inputs, found ", inputs.size());
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  for (const int slot : finite_) {
    if (must_look(inputs[slot]) && !all_finite(inputs[slot])) return std::nullopt;
  }
  std::vector<c10::IValue> stack;
  std::atomic<bool> finite = true;
  const bool ready = is_ready_ && in_place();
  std::vector<at::Tensor> slots = filled(std::move(inputs), ready ? read_ : all_);
  for (std::size_t at = 0; at < calls_.size(); ++at) {
    const Call& call = calls_[at];
    const auto start = times == nullptr ? Clock::time_point() : Clock::now();
    if (ready && fits(ready_[at], slots)) {
      ready_[at].run(slots, finite);
    } else {
      if (ready && ready_[at].run) copy_constants(all_, slots);
      step(call, slots, stack, finite);
    }
    for (const int slot : call.spent) slots[slot].reset();
    if (!finite) return std::nullopt;
    if (times == nullptr) continue;
    const std::chrono::duration<double, std::nano> took = Clock::now() - start;
    times->emplace_back(call.op.schema().name(), took.count());
  }
  std::vector<at::Tensor> results;
  results.reserve(results_.size());
  for (const int slot : results_) results.push_back(slots[slot]);
  return results;
}

void Program::step(const Call& call, std::vector<at::Tensor>& slots, std::vector<c10::IValue>& stack,
                   std::atomic<bool>& finite) const {
  auto output = call.outputs.begin();
  if (call.way == Call::Way::kView) {
    slots[*output] = at::native::view(slots[call.arguments[0].slots[0]], call.sizes);
  } else if (call.way == Call::Way::kNeuron) {
    const auto free = [&](int at) { return spare(call, call.arguments[at], slots); };
    Recorded recorded{free(0), free(1), free(2)};
    if (call.checks && must_look(slots[call.arguments[0].slots[0]])) recorded.finite = &finite;
    fill(call, slots, stack);
    auto [result, v, i, trace_v, trace_i] = recorded_neuron(recorded, stack);
    for (at::Tensor* tensor : {&result, &v, &i, &trace_v, &trace_i}) slots[*output++] = std::move(*tensor);
  } else {
    fill(call, slots, stack);
    call.op.callBoxed(&stack);
    for (const c10::IValue& value : stack) {
      if (value.isTensor()) {
        slots[*output++] = value.toTensor();
      } else if (value.isTensorList()) {
        for (const at::Tensor& tensor : value.toTensorVector()) slots[*output++] = tensor;
      }
    }
  }
}

std::vector<at::Tensor> Program::filled(std::vector<at::Tensor> inputs,
                                        const std::vector<int>& constants) const {
  std::vector<at::Tensor> slots = std::move(inputs);
  slots.resize(constants_.size());
  copy_constants(constants, slots);
  return slots;
}

void Program::copy_constants(const std::vector<int>& chosen, std::vector<at::Tensor>& slots) const {
  for (const int slot : chosen) slots[slot] = constants_[slot];
}

// The constants that must be in their slots while every bound call fits.
std::vector<int> Program::read_by(const std::vector<BoundCall>& ready) const {
  std::vector<int> read = results_;
  for (std::size_t at = 0; at < calls_.size(); ++at) {
    if (ready[at].run) {
      read.insert(read.end(), ready[at].contiguous.begin(), ready[at].contiguous.end());
      continue;
    }
    for (const Argument& argument : calls_[at].arguments) {
      read.insert(read.end(), argument.slots.begin(), argument.slots.end());
    }
  }
  read.erase(std::remove_if(read.begin(), read.end(), [&](int slot) { return !constants_[slot].defined(); }),
             read.end());
  return read;
}

// `share_memory_`, which multiprocessing calls, and `resize_` of a storage move it for all tensors that share
// it.
bool Program::in_place() const {
  return std::all_of(memory_.begin(), memory_.end(),
                     [&](const auto& at) { return memory(constants_[at.first]) == at.second; });
}

void Program::make_ready(std::vector<at::Tensor> inputs) const {
  std::call_once(made_ready_, [&] {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    std::vector<at::Tensor> slots = filled(std::move(inputs), all_);
    std::vector<c10::IValue> stack;
    std::atomic<bool> finite = true;
    std::vector<BoundCall> ready;  // a failed attempt changes nothing
    for (const Call& call : calls_) {
      ready.push_back(bound_call(call, slots, constants_));
      step(call, slots, stack, finite);
      for (const int slot : call.spent) slots[slot].reset();
    }
    ready_ = std::move(ready);
    read_ = read_by(ready_);
    for (std::size_t slot = 0; slot < constants_.size(); ++slot) {
      const at::Tensor& constant = constants_[slot];
      if (constant.defined() && constant.has_storage()) memory_.emplace_back(slot, memory(constant));
    }
    is_ready_ = true;
  });
}

}  // namespace neurocuda
