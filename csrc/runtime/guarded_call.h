// A cached call of a network: one call from Python, valid while its guards hold. It runs a program on a CPU,
// a program or a CUDA graph on a GPU.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <functional>
#include <memory>
#include <vector>

#include "runtime/guards.h"
#include "runtime/program.h"

namespace neurocuda {

// Sizes, strides, dtype and device of an input.
struct Metadata {
  std::vector<std::int64_t> sizes, strides;
  at::ScalarType type;
  at::Device device;

  static Metadata of(const at::Tensor& tensor);
  bool fits(const at::Tensor& tensor) const;
  at::Tensor zeros() const;
};

class GuardedCall {
 public:
  // Computes outputs, then the state, from the inputs; nothing if an input is refused.
  struct Run {
    std::shared_ptr<const Program> program;  // runs without the GIL, or null:
    std::function<std::vector<at::Tensor>(std::vector<at::Tensor>&&)> function;
  };

  // `inputs`: the signal, then the state by `names`, or the signal alone where the call starts from rest by
  // itself. `sources`: the parameters and buffers, the same objects at each call. `finite`: a guard checks
  // that the signal is finite; a program does so itself.
  GuardedCall(Run run, const std::vector<at::Tensor>& inputs, std::vector<pybind11::str> names,
              std::vector<pybind11::object> sources, Guards guards, bool finite);

  // (output, state), or None if a guard fails: another shape, stride, dtype or device of an input, another
  // parameter, autograd or a mode that observes the operators, changed values. `state` is a dictionary
  // with the names in their order, or None for rest.
  pybind11::object operator()(pybind11::handle signal, pybind11::handle state,
                              const pybind11::dict& parameters, const pybind11::dict& buffers) const;

 private:
  bool take_state(pybind11::handle state, std::vector<at::Tensor>& to) const;

  Run run_;
  std::vector<Metadata> inputs_;
  std::vector<pybind11::str> names_;
  std::vector<pybind11::object> sources_;
  Guards guards_;
  bool finite_;
};

}  // namespace neurocuda
