#include "runtime/guarded_call.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "runtime/py_args.h"

namespace py = pybind11;

namespace neurocuda {
namespace {

// Whether the tensors of a dictionary are the next expected objects; advances `at` past them.
bool same_objects(const py::dict& found, const std::vector<py::object>& expected, std::size_t& at) {
  PyObject *key, *value;
  for (Py_ssize_t place = 0; PyDict_Next(found.ptr(), &place, &key, &value);) {
    if (value == Py_None) continue;
    if (at == expected.size() || value != expected[at].ptr()) return false;
    ++at;
  }
  return true;
}

}  // namespace

Metadata Metadata::of(const at::Tensor& tensor) {
  return {tensor.sizes().vec(), tensor.strides().vec(), tensor.scalar_type(), tensor.device()};
}

bool Metadata::fits(const at::Tensor& tensor) const {
  return tensor.layout() == at::kStrided && tensor.device() == device && tensor.scalar_type() == type &&
         tensor.sizes() == at::IntArrayRef(sizes) && tensor.strides() == at::IntArrayRef(strides);
}

at::Tensor Metadata::zeros() const {
  const auto options = at::TensorOptions(device).dtype(type);
  const bool one = std::all_of(strides.begin(), strides.end(), [](auto stride) { return stride == 0; });
  return one ? at::zeros({}, options).expand(sizes) : at::zeros(sizes, options);
}

GuardedCall::GuardedCall(Run run, const std::vector<at::Tensor>& inputs, std::vector<py::str> names,
                         std::vector<py::object> sources, Guards guards, bool finite)
    : run_(std::move(run)),
      names_(std::move(names)),
      sources_(std::move(sources)),
      guards_(std::move(guards)),
      finite_(finite) {
  TORCH_CHECK(inputs.size() == 1 || inputs.size() == names_.size() + 1, "expected a signal and ",
              names_.size(), " entries of the state, found ", inputs.size(), " tensors");
  for (const at::Tensor& input : inputs) inputs_.push_back(Metadata::of(input));
}

bool GuardedCall::take_state(py::handle state, std::vector<at::Tensor>& to) const {
  if (!state.is_none()) {
    if (!take(state.ptr(), names_, to)) return false;
  } else {
    for (std::size_t entry = 1; entry < inputs_.size(); ++entry) to.push_back(inputs_[entry].zeros());
  }
  return std::equal(inputs_.begin(), inputs_.end(), to.begin(), to.end(),
                    [](const Metadata& expected, const at::Tensor& found) { return expected.fits(found); });
}

py::object GuardedCall::operator()(py::handle signal, py::handle state, const py::dict& parameters,
                                   const py::dict& buffers) const {
  std::vector<at::Tensor> inputs;
  inputs.reserve(inputs_.size());
  if (!alone(inputs_[0].device.type()) || !take(signal.ptr(), inputs) || !take_state(state, inputs)) {
    return py::none();
  }
  std::size_t source = 0;
  if (!same_objects(parameters, sources_, source) || !same_objects(buffers, sources_, source) ||
      source != sources_.size()) {
    return py::none();
  }
  const bool on_cpu = inputs[0].is_cpu();
  Answer holds;
  std::vector<at::Tensor> results;
  {
    const py::gil_scoped_release others_may_run;
    if (finite_ && inputs[0].is_floating_point()) holds.ask_finite(inputs[0]);
    guards_.ask(inputs[0], holds);
    if (on_cpu && !holds.wait()) inputs.clear();  // a GPU checks while it computes
    if (run_.program && !inputs.empty()) results = run_.program->run(std::move(inputs)).value_or(results);
  }
  if (!run_.program && !inputs.empty()) results = run_.function(std::move(inputs));
  if (!on_cpu) {
    const py::gil_scoped_release others_may_run;
    if (!holds.wait()) results.clear();
  }
  if (results.empty()) return py::none();
  return output_and_state(std::move(results), names_);
}

}  // namespace neurocuda
