// Operator calls, recorded once and run again without Python in between.
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

// Slots 0 .. inputs - 1 are the inputs of `run`. Every other slot is a constant, or an output of one call
// until the last call that reads it, so that memory is freed early.
class Program {
 public:
  explicit Program(int inputs) : constants_(inputs) {}

  int new_slot();
  int constant(at::Tensor tensor);
  void add(Call call);
  // Ends the recording. `results`: the slots that `run` returns. The first `finite` inputs must be finite.
  void finish(std::vector<int> results, int finite);
  std::size_t size() const { return calls_.size(); }

  // Runs below autograd; nullopt if an input that must be finite is not. Thread-safe. `times`, unless null,
  // receives the name and the nanoseconds of each operator.
  std::optional<std::vector<at::Tensor>> run(
      std::vector<at::Tensor> inputs, std::vector<std::pair<std::string, double>>* times = nullptr) const;

  // For calls of small tensors, where checks take longer than kernels: runs once with these inputs, and binds
  // each call that can be bound, for later runs while the memory of the constants stays where it is. Does
  // nothing the second time.
  void make_ready(std::vector<at::Tensor> inputs) const;

 private:
  std::vector<at::Tensor> filled(std::vector<at::Tensor> inputs, const std::vector<int>& constants) const;
  void copy_constants(const std::vector<int>& chosen, std::vector<at::Tensor>& slots) const;
  std::vector<int> read_by(const std::vector<BoundCall>& ready) const;
  void step(const Call& call, std::vector<at::Tensor>& slots, std::vector<c10::IValue>& stack,
            std::atomic<bool>& finite) const;

  bool in_place() const;

  mutable std::once_flag made_ready_;
  mutable std::vector<BoundCall> ready_;
  mutable std::vector<int> read_;  // the constants that calls read in their slots while all bound calls fit
  mutable std::vector<std::pair<std::size_t, const void*>> memory_;  // of the constants, by slot
  mutable std::atomic<bool> is_ready_ = false;
  std::vector<at::Tensor> constants_;  // by slot; undefined if the slot is no constant
  std::vector<int> all_;               // the slots of the constants
  std::vector<Call> calls_;
  std::vector<int> results_;
  std::vector<int> finite_;  // inputs that are checked before the first call
  std::size_t inputs_ = constants_.size();
};

}  // namespace neurocuda
