#include "runtime/py_args.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>

#include <utility>

namespace py = pybind11;

namespace neurocuda {

bool alone(at::DeviceType device) {
  const c10::DispatchKeySet usual({c10::DispatchKey::BackendSelect, c10::DispatchKey::ADInplaceOrView});
  return !at::GradMode::is_enabled() && !at::autocast::is_autocast_enabled(device) &&
         (c10::impl::tls_local_dispatch_key_set().included_ - usual).empty();
}

bool take(PyObject* object, std::vector<at::Tensor>& to) {
  if (!THPVariable_CheckExact(object)) return false;
  to.push_back(THPVariable_Unpack(object));
  return true;
}

bool take(PyObject* dictionary, const std::vector<py::str>& keys, std::vector<at::Tensor>& to) {
  if (!PyDict_Check(dictionary) || PyDict_Size(dictionary) != Py_ssize_t(keys.size())) return false;
  PyObject *key, *value;
  std::size_t at = 0;
  for (Py_ssize_t place = 0; PyDict_Next(dictionary, &place, &key, &value); ++at) {
    if (key != keys[at].ptr() && !py::handle(key).equal(keys[at])) return false;
    if (!take(value, to)) return false;
  }
  return true;
}

py::object output_and_state(std::vector<at::Tensor>&& results, const std::vector<py::str>& names) {
  py::dict after;
  for (std::size_t name = 0; name + 1 < results.size(); ++name) {
    after[names[name]] = py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(results[name + 1])));
  }
  auto output = py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(results[0])));
  return py::make_tuple(std::move(output), std::move(after));
}

}  // namespace neurocuda
