// Calls of a network that are made again in one call from Python, if everything that they rest on still
// holds: on a CPU by a program, on a GPU by whatever runs there.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/guards.h"
#include "runtime/program.h"

namespace neurocuda {

// Shapes, strides, types and devices of `tensors` and of `sources`, and where the memory of the latter
// begins: equal for two lists if and only if these are.
std::string kinds(const std::vector<at::Tensor>& tensors, const std::vector<at::Tensor>& sources);

// What a recording was made for: anything else is not its business.
struct Kind {
  std::vector<std::int64_t> sizes, strides;
  at::ScalarType type;

  static Kind of(const at::Tensor& tensor);
  bool fits(const at::Tensor& tensor) const;
};

// Tensors that must be the same objects, by the dictionaries that hold them, and values that must be as they
// were.
struct Basis {
  std::vector<pybind11::object> sources;
  Guards looks;
};

class Replay {
 public:
  // `inputs` are of the kinds that the program takes: the signal, then the state by `names`; its results are
  // the output, then the state.
  Replay(std::shared_ptr<const Program> program, const std::vector<at::Tensor>& inputs,
         std::vector<pybind11::str> names, Basis basis);

  // (output, state), or None if the program does not hold for this: another kind of input, autograd or a mode
  // that would see the operators, an edited parameter, a signal that is not finite or off the grid that a
  // proof rests on. `state` is a dictionary, or None for rest.
  pybind11::object operator()(pybind11::handle signal, const pybind11::object& state,
                              const pybind11::dict& parameters, const pybind11::dict& buffers) const;

 private:
  // Appends the state to the signal; whether all are of the kinds that the program takes.
  bool take_state(const pybind11::object& state, std::vector<at::Tensor>& to) const;
  bool fit(const std::vector<at::Tensor>& inputs) const;

  std::shared_ptr<const Program> program_;
  std::vector<Kind> kinds_;
  std::vector<pybind11::str> names_;
  Basis basis_;
};

class Repeated {
 public:
  // The results for a signal and a state: the output, then the state.
  using Run = std::function<std::vector<at::Tensor>(std::vector<at::Tensor>&&)>;

  // `kind` is `kinds` of the signal and the state, and of what the call closes over. `run` is called with the
  // GIL.
  Repeated(std::string kind, std::vector<pybind11::str> names, Guards looks, Run run)
      : kind_(std::move(kind)), names_(std::move(names)), looks_(std::move(looks)), run_(std::move(run)) {}

  // (output, state), or None where that is another call: another kind of signal, state or tensor of the
  // dictionaries, autograd or a mode that would see the operators, or something supposed that is not so.
  // `state` is a dictionary with the names in their order, or None.
  pybind11::object operator()(pybind11::handle signal, pybind11::handle state,
                              const pybind11::dict& parameters, const pybind11::dict& buffers) const;

 private:
  std::string kind_;
  std::vector<pybind11::str> names_;
  Guards looks_;
  Run run_;
};

}  // namespace neurocuda
