#include "replay.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <utility>

#include "values.h"

namespace py = pybind11;

namespace neurocuda {
namespace {

// Whether nothing watches the operators: neither autograd nor autocast, a mode or a transform of functions.
bool alone() {
  const c10::DispatchKeySet usual({c10::DispatchKey::BackendSelect, c10::DispatchKey::ADInplaceOrView});
  return !at::GradMode::is_enabled() && !at::autocast::is_autocast_enabled(at::kCPU) &&
         (c10::impl::tls_local_dispatch_key_set().included_ - usual).empty();
}

// Moves `at` past the tensors of a dictionary, if they are the expected ones.
bool same_objects(const py::dict& found, const std::vector<py::object>& expected, std::size_t& at) {
  PyObject *key, *value;
  for (Py_ssize_t place = 0; PyDict_Next(found.ptr(), &place, &key, &value);) {
    if (value == Py_None) continue;
    if (at == expected.size() || value != expected[at].ptr()) return false;
    ++at;
  }
  return true;
}

// A plain tensor: subclasses may have an operator of their own.
bool take(PyObject* object, const Kind& kind, std::vector<at::Tensor>& to) {
  if (!THPVariable_CheckExact(object)) return false;
  to.push_back(THPVariable_Unpack(object));
  return kind.fits(to.back());
}

}  // namespace

Kind Kind::of(const at::Tensor& tensor) {
  return {tensor.sizes().vec(), tensor.strides().vec(), tensor.scalar_type()};
}

bool Kind::fits(const at::Tensor& tensor) const {
  return tensor.layout() == at::kStrided && tensor.is_cpu() && tensor.scalar_type() == type &&
         tensor.sizes() == at::IntArrayRef(sizes) && tensor.strides() == at::IntArrayRef(strides);
}

Replay::Replay(std::shared_ptr<const Program> program, const std::vector<at::Tensor>& inputs,
               std::vector<py::str> names, Basis basis)
    : program_(std::move(program)), names_(std::move(names)), basis_(std::move(basis)) {
  TORCH_CHECK(inputs.size() == names_.size() + 1, "expected a signal and ", names_.size(),
              " entries of the state, found ", inputs.size(), " tensors");
  for (const at::Tensor& input : inputs) kinds_.push_back(Kind::of(input));
  // Of several steps, the calls are worth a look at their arguments, and not the memory of one run more.
  if (inputs[0].dim() > 0 && inputs[0].size(0) == 1) program_->make_ready(inputs);
}

bool Replay::take_state(const py::object& state, std::vector<at::Tensor>& to) const {
  if (state.is_none()) {
    for (auto kind = kinds_.begin() + 1; kind != kinds_.end(); ++kind) {
      const bool at_rest =
          std::all_of(kind->strides.begin(), kind->strides.end(), [](auto s) { return s == 0; });
      to.push_back(at_rest ? at::zeros({}, kind->type).expand(kind->sizes)
                           : at::zeros(kind->sizes, kind->type));
      if (!kind->fits(to.back())) return false;
    }
    return true;
  }
  if (!PyDict_Check(state.ptr()) || PyDict_Size(state.ptr()) != Py_ssize_t(names_.size())) return false;
  PyObject *key, *value;
  std::size_t at = 0;
  for (Py_ssize_t place = 0; PyDict_Next(state.ptr(), &place, &key, &value); ++at) {
    if (key != names_[at].ptr() && !py::handle(key).equal(names_[at])) return false;
    if (!take(value, kinds_[at + 1], to)) return false;
  }
  return true;
}

py::object Replay::operator()(py::handle signal, const py::object& state, const py::dict& parameters,
                              const py::dict& buffers) const {
  std::vector<at::Tensor> inputs;
  inputs.reserve(kinds_.size());
  if (!alone() || !take(signal.ptr(), kinds_[0], inputs) || !take_state(state, inputs)) return py::none();
  std::size_t source = 0;
  if (!same_objects(parameters, basis_.sources, source) || !same_objects(buffers, basis_.sources, source) ||
      source != basis_.sources.size()) {
    return py::none();
  }
  std::optional<std::vector<at::Tensor>> made;
  {
    const py::gil_scoped_release others_may_run;
    if (same_bits(basis_.now, basis_.then)) made = program_->run(std::move(inputs));
  }
  if (!made) return py::none();
  std::vector<at::Tensor>& results = *made;
  py::dict after;
  for (std::size_t name = 0; name < names_.size(); ++name) {
    after[names_[name]] = py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(results[name + 1])));
  }
  auto output = py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(results[0])));
  return py::make_tuple(std::move(output), std::move(after));
}

}  // namespace neurocuda
