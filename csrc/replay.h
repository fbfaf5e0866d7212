// A call of a network that a program has recorded, made again in one call from Python if everything that the
// recording rests on still holds.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <memory>
#include <string>
#include <vector>

#include "program.h"
#include "values.h"

namespace neurocuda {

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
  Looks looks;
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

}  // namespace neurocuda
