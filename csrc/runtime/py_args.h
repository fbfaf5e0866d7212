// What calls from Python that are made again have in common.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <vector>

namespace neurocuda {

// Whether nothing watches the operators on such a device: neither autograd nor autocast, a mode or a
// transform of functions.
bool alone(at::DeviceType device);

// Appends a plain tensor; false for anything else: subclasses may have an operator of their own.
bool take(PyObject* object, std::vector<at::Tensor>& to);

// Appends the values of a dictionary that has exactly these keys, in this order, and plain tensors.
bool take(PyObject* dictionary, const std::vector<pybind11::str>& keys, std::vector<at::Tensor>& to);

// (output, state by name) of results in this order; an empty state where there is none.
pybind11::object output_and_state(std::vector<at::Tensor>&& results, const std::vector<pybind11::str>& names);

}  // namespace neurocuda
