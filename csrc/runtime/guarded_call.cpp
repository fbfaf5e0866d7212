#include "runtime/guarded_call.h"

#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "ops/checks.h"
#include "runtime/py_args.h"

namespace py = pybind11;

namespace neurocuda {
namespace {

void add(std::string& to, std::int64_t number) {
  to.append(reinterpret_cast<const char*>(&number), sizeof number);
}

void add(std::string& to, const at::Tensor& tensor) {
  add(to, tensor.dim());
  for (const std::int64_t size : tensor.sizes()) add(to, size);
  for (const std::int64_t stride : tensor.strides()) add(to, stride);
  add(to, static_cast<std::int64_t>(tensor.scalar_type()));
  add(to, static_cast<std::int64_t>(tensor.device().type()));
  add(to, tensor.device().index());
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

void add_all(const py::dict& found, std::vector<at::Tensor>& to) {
  PyObject *key, *value;
  for (Py_ssize_t place = 0; PyDict_Next(found.ptr(), &place, &key, &value);) {
    if (THPVariable_Check(value)) to.push_back(THPVariable_Unpack(value));
  }
}

}  // namespace

std::string kinds(const std::vector<at::Tensor>& tensors, const std::vector<at::Tensor>& sources) {
  std::string result;
  add(result, static_cast<std::int64_t>(tensors.size()));
  for (const at::Tensor& tensor : tensors) add(result, tensor);
  for (const at::Tensor& source : sources) {
    add(result, source);
    add(result, reinterpret_cast<std::intptr_t>(source.const_data_ptr()));
  }
  return result;
}

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
    }
    return fit(to);
  }
  return neurocuda::take(state.ptr(), names_, to) && fit(to);
}

bool Replay::fit(const std::vector<at::Tensor>& inputs) const {
  return std::equal(kinds_.begin(), kinds_.end(), inputs.begin(), inputs.end(),
                    [](const Kind& kind, const at::Tensor& input) { return kind.fits(input); });
}

py::object Replay::operator()(py::handle signal, const py::object& state, const py::dict& parameters,
                              const py::dict& buffers) const {
  std::vector<at::Tensor> inputs;
  inputs.reserve(kinds_.size());
  if (!alone(at::kCPU) || !take(signal.ptr(), inputs) || !take_state(state, inputs)) return py::none();
  std::size_t source = 0;
  if (!same_objects(parameters, basis_.sources, source) || !same_objects(buffers, basis_.sources, source) ||
      source != basis_.sources.size()) {
    return py::none();
  }
  std::optional<std::vector<at::Tensor>> made;
  {
    const py::gil_scoped_release others_may_run;
    Answer holds;
    basis_.looks.ask(inputs[0], holds);
    if (holds.wait()) made = program_->run(std::move(inputs));
  }
  if (!made) return py::none();
  return output_and_state(std::move(*made), names_);
}

py::object Repeated::operator()(py::handle signal, py::handle state, const py::dict& parameters,
                                const py::dict& buffers) const {
  std::vector<at::Tensor> given, sources;
  if (!take(signal.ptr(), given) || !alone(given[0].device().type())) return py::none();
  if (!state.is_none() && !take(state.ptr(), names_, given)) return py::none();
  add_all(parameters, sources);
  add_all(buffers, sources);
  if (kinds(given, sources) != kind_) return py::none();
  Answer holds;
  {
    const py::gil_scoped_release others_may_run;
    if (given[0].is_floating_point()) holds.ask_finite(given[0]);
    looks_.ask(given[0], holds);
  }
  std::vector<at::Tensor> results = run_(std::move(given));
  {
    const py::gil_scoped_release others_may_run;
    if (!holds.wait()) results.clear();
  }
  if (results.empty()) return py::none();
  return output_and_state(std::move(results), names_);
}

}  // namespace neurocuda
