// Operator calls, recorded once and run again without Python between them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <atomic>
#include <cstddef>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/op_call.h"

namespace neurocuda {

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

  // For calls of few and small tensors, whose checks cost more than their kernels: later runs use a bound
  // call for each that has one, while the memory of the constants does not move. Runs once with these inputs,
  // and does nothing the next time.
  void make_ready(std::vector<at::Tensor> inputs) const;

 private:
  std::vector<at::Tensor> filled(std::vector<at::Tensor> inputs) const;
  void step(const Call& call, std::vector<at::Tensor>& slots, std::vector<c10::IValue>& stack,
            std::atomic<bool>& finite) const;

  bool in_place() const;

  mutable std::once_flag made_ready_;
  mutable std::vector<BoundCall> ready_;
  mutable std::vector<std::pair<std::size_t, const void*>> memory_;  // of the constants, by slot
  mutable std::atomic<bool> is_ready_ = false;
  std::vector<at::Tensor> constants_;  // by slot; undefined where a slot is no constant
  std::vector<Call> calls_;
  std::vector<int> results_;
  std::vector<int> finite_;  // inputs that are looked at before the first call
  std::size_t inputs_ = constants_.size();
};

}  // namespace neurocuda
