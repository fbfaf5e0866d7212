// A call of a network on a GPU, made again with other values in one call from Python.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <functional>
#include <string>
#include <vector>

#include "values.h"

namespace neurocuda {

class Repeated {
 public:
  // The results for a signal and a state: the output, then the state.
  using Run = std::function<std::vector<at::Tensor>(std::vector<at::Tensor>&&)>;

  // `kind` is `kinds` of the signal and the state, and of what the call closes over. `run` is called with the
  // GIL.
  Repeated(std::string kind, std::vector<pybind11::str> names, Looks looks, Run run)
      : kind_(std::move(kind)), names_(std::move(names)), looks_(std::move(looks)), run_(std::move(run)) {}

  // (output, state), or None where that is another call: another kind of signal, state or tensor of the
  // dictionaries, autograd or a mode that would see the operators, or something supposed that is not so.
  // `state` is a dictionary with the names in their order, or None.
  pybind11::object operator()(pybind11::handle signal, pybind11::handle state,
                              const pybind11::dict& parameters, const pybind11::dict& buffers) const;

 private:
  std::string kind_;
  std::vector<pybind11::str> names_;
  Looks looks_;
  Run run_;
};

}  // namespace neurocuda
