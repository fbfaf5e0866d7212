#include "repeated.h"

#include <torch/csrc/autograd/python_variable.h>

#include <utility>

#include "from_python.h"
#include "kinds.h"

namespace py = pybind11;

namespace neurocuda {
namespace {

void add_all(const py::dict& found, std::vector<at::Tensor>& to) {
  PyObject *key, *value;
  for (Py_ssize_t place = 0; PyDict_Next(found.ptr(), &place, &key, &value);) {
    if (THPVariable_Check(value)) to.push_back(THPVariable_Unpack(value));
  }
}

}  // namespace

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
