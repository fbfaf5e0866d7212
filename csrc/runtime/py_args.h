// Reads the Python arguments of cached calls.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <vector>

namespace neurocuda {

// Whether nothing observes the operators on such a device: no autograd, autocast, mode or function transform.
bool alone(at::DeviceType device);

// Appends a plain tensor; false for anything else, as subclasses may override operators.
bool take(PyObject* object, std::vector<at::Tensor>& to);

// Appends the values of a dictionary with exactly these keys, in this order, and plain tensors; else false.
bool take(PyObject* dictionary, const std::vector<pybind11::str>& keys, std::vector<at::Tensor>& to);

// (output, state by name) of results in this order; an empty state where there is none.
pybind11::object output_and_state(std::vector<at::Tensor>&& results, const std::vector<pybind11::str>& names);

}  // namespace neurocuda
