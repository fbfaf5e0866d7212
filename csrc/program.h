// Operator calls, recorded once and run again without Python between them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <atomic>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace neurocuda {

// An argument of a call: the tensor in a slot, the tensors in several, or a value.
struct Argument {
  enum class Kind { kSlot, kSlots, kValue } kind = Kind::kValue;
  std::vector<int> slots;
  c10::IValue value;
};

struct Call {
  c10::OperatorHandle op;
  std::vector<Argument> arguments;
  std::vector<int> outputs;  // a slot for each tensor it returns
  std::vector<int> spent;    // slots that nothing reads after it
  enum class Way {
    kDispatcher,
    kView,    // aten::view of a slot, of `sizes`: not worth a way through the dispatcher
    kNeuron,  // neurocuda::neuron, which may write what is spent
  } way = Way::kDispatcher;
  std::vector<std::int64_t> sizes;
  bool checks = false;  // a kNeuron finds out whether its only branch is finite
};

// Slots 0 .. inputs - 1 hold what `run` is given. Every other slot holds a constant, or what one call leaves
// there until the last call that reads it: memory goes back as early as it can.
class Program {
 public:
  explicit Program(int inputs) : constants_(inputs) {}

  int new_slot();
  int constant(at::Tensor tensor);
  void add(Call call);
  // Says which slots `run` returns, and that the first `finite` inputs must be so. Nothing can be added
  // after.
  void finish(std::vector<int> results, int finite);
  std::size_t size() const { return calls_.size(); }

  // Runs below autograd; nothing if an input is not finite that must be. May be called by several threads at
  // once. `times`, unless null, takes the operators by name, and the nanoseconds of each.
  std::optional<std::vector<at::Tensor>> run(
      std::vector<at::Tensor> inputs, std::vector<std::pair<std::string, double>>* times = nullptr) const;

 private:
  void step(const Call& call, std::vector<at::Tensor>& slots, std::vector<c10::IValue>& stack,
            std::atomic<bool>& finite) const;
  void fill(const Call& call, const std::vector<at::Tensor>& slots, std::vector<c10::IValue>& stack) const;

  std::vector<at::Tensor> constants_;  // by slot; undefined where a slot is no constant
  std::vector<Call> calls_;
  std::vector<int> results_;
  std::vector<int> finite_;  // inputs that are looked at before the first call
  std::size_t inputs_ = constants_.size();
};

}  // namespace neurocuda
