// The module neurocuda._C: loading it registers the operators; it knows what it was built for.

#include <ATen/Parallel.h>
#include <ATen/ScalarOps.h>
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/csrc/utils/pybind.h>

#include <string>
#include <tuple>
#include <vector>

#include "cpu/memory_pool.h"
#include "cpu/multiversion.h"
#include "ops/checks.h"
#include "ops/integer_conv.h"
#include "runtime/cuda_graph.h"
#include "runtime/guarded_call.h"
#include "runtime/program.h"

#if defined(NEUROCUDA_EMULATED)
#include "cuda/emulation/block.h"  // last: it takes names that others use
#endif

namespace py = pybind11;

namespace {

// Also read from the file itself, before it is loaded: a library built for another torch may not load at all.
extern "C" __attribute__((used, visibility("default"))) const char neurocuda_built_for[] =
    "neurocuda built for torch " NEUROCUDA_TORCH_VERSION;

const char* instructions_name() {
  switch (neurocuda::cpu::kInstructions) {
    case neurocuda::cpu::Instructions::kAvx512:
      return "avx512";
    case neurocuda::cpu::Instructions::kAvx2:
      return "avx2";
    case neurocuda::cpu::Instructions::kBaseline:
      return "baseline";
  }
  return "";
}

// The architectures that the CUDA kernels were built for and the toolkit, as in "8.0;9.0+PTX, CUDA 13.0".
#if !defined(NEUROCUDA_WITH_CUDA)
constexpr const char* kCudaBuilt = "";
#elif defined(NEUROCUDA_CUDA_BUILT)
constexpr const char* kCudaBuilt = NEUROCUDA_CUDA_BUILT;
#else
#error "a build with CUDA says in NEUROCUDA_CUDA_BUILT what it is for"
#endif

// Stands for a tensor of a program where a call is recorded.
struct Slot {
  int number;
};

using neurocuda::Argument;

Argument argument_of(const py::handle& given, const c10::Argument& wanted) {
  if (py::isinstance<Slot>(given)) return {Argument::Kind::kSlot, {given.cast<Slot>().number}, {}};
  if (py::isinstance<py::list>(given) || py::isinstance<py::tuple>(given)) {
    const auto items = py::reinterpret_borrow<py::sequence>(given);
    if (items.size() > 0 && py::isinstance<Slot>(items[0])) {
      Argument list{Argument::Kind::kSlots, {}, {}};
      for (const py::handle item : items) list.slots.push_back(item.cast<Slot>().number);
      return list;
    }
  }
  if (wanted.type()->kind() == c10::TypeKind::TensorType &&
      (PyFloat_Check(given.ptr()) || PyLong_Check(given.ptr()))) {
    at::Tensor number = c10::scalar_to_tensor(torch::jit::toIValue(given, c10::NumberType::get()).toScalar());
    number.unsafeGetTensorImpl()->set_wrapped_number(
        true);  // as Python's arithmetic takes it: no type of its own
    return {Argument::Kind::kValue, {}, number};
  }
  return {Argument::Kind::kValue, {}, torch::jit::toIValue(given, wanted.type())};
}

void add(neurocuda::Program& program, const std::string& name, const std::string& overload,
         const py::tuple& args, const py::dict& kwargs, std::vector<int> outputs) {
  const c10::OperatorHandle op =
      c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
  neurocuda::Call call{op, {}, std::move(outputs), {}};
  const auto& wanted = op.schema().arguments();
  for (std::size_t place = 0; place < wanted.size(); ++place) {
    if (place < args.size()) {
      call.arguments.push_back(argument_of(args[place], wanted[place]));
    } else if (const py::str key(wanted[place].name()); kwargs.contains(key)) {
      call.arguments.push_back(argument_of(kwargs[key], wanted[place]));
    } else {
      call.arguments.push_back({Argument::Kind::kValue, {}, wanted[place].default_value().value()});
    }
  }
  program.add(std::move(call));
}

// From the fields that `merged` of runtime/guards.py returns.
neurocuda::Guards guards_from(const py::tuple& fields) {
  const auto tensors = [&](std::size_t place) { return fields[place].cast<std::vector<at::Tensor>>(); };
  neurocuda::Guards guards{tensors(0), tensors(1), tensors(2), tensors(3), tensors(4), {}};
  for (const auto& [spacing, low, high] : fields[5].cast<std::vector<std::tuple<double, double, double>>>()) {
    guards.grids.push_back({spacing, low, high});
  }
  return guards;
}

// A program or a CUDA graph, which need no Python, or a Python function.
neurocuda::GuardedCall::Run run_of(const py::object& run, const std::vector<at::Tensor>& inputs) {
  using Tensors = std::vector<at::Tensor>;
  if (py::isinstance<neurocuda::CudaGraph>(run)) {
    const auto& graph = run.cast<const neurocuda::CudaGraph&>();
    return {nullptr, [run, &graph](Tensors&& given) { return graph(given); }};
  }
  if (!py::isinstance<neurocuda::Program>(run)) {
    return {nullptr, [run](Tensors&& given) { return run(std::move(given)).cast<Tensors>(); }};
  }
  auto program = run.cast<std::shared_ptr<neurocuda::Program>>();
  // Binding its calls pays for one step, where looking at arguments costs most, and takes the memory of a
  // run.
  if (inputs[0].is_cpu() && inputs[0].dim() > 0 && inputs[0].size(0) == 1) program->make_ready(inputs);
  return {std::move(program), nullptr};
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "The compiled operators of NeuroCUDA, registered as torch.ops.neurocuda.*";
  m.attr("torch_version") = NEUROCUDA_TORCH_VERSION;
  m.attr("compiler") = __VERSION__;
#if defined(NEUROCUDA_EMULATED)
  m.attr("kernels") = "emulated";
  m.def(
      "launches", [] { return neurocuda::emulation::Device::instance().launches(); },
      "How often each kernel was launched.");
#elif defined(NEUROCUDA_WITH_CUDA)
  m.attr("kernels") = "cuda";
#else
  m.attr("kernels") = "cpu";
#endif
  m.attr("instructions") = instructions_name();  // of this process: the CPU kernels run the version for them
  m.attr("cuda_built") = kCudaBuilt;             // empty where there are no kernels for a GPU
  m.def(
      "memory",
      [] {
        const auto use = neurocuda::cpu::Pool::instance().use();
        py::dict found;
        found["in_use"] = use.in_use;
        found["free"] = use.free;
        found["taken"] = use.taken;
        return found;
      },
      "The pool of results: bytes in use, bytes free, blocks taken from the system so far.");
  m.def(
      "release_memory", [] { neurocuda::cpu::Pool::instance().release(); },
      "Give the free memory of the pool back to the system.");
  m.def("parallel_info", &at::get_parallel_info, "How torch, and so these operators, run in parallel.");
  m.def("same_bits", &neurocuda::same_bits, py::call_guard<py::gil_scoped_release>());
  const auto released = py::call_guard<py::gil_scoped_release>();
  using Grids = std::vector<std::tuple<at::Tensor, double, double, double>>;
  py::class_<neurocuda::Answer>(m, "Answer", "Whether all that was asked is so; a GPU answers later.")
      .def(py::init<>())
      .def(
          "ask_finite",
          [](neurocuda::Answer& answer, const std::vector<at::Tensor>& tensors) {
            for (const at::Tensor& tensor : tensors) answer.ask_finite(tensor);
          },
          released, "Whether every number is finite.")
      .def("ask_same_bits", &neurocuda::Answer::ask_same_bits, released,
           "Whether two lists agree as `same_bits` says.")
      .def(
          "ask_on_grid",
          [](neurocuda::Answer& answer, const Grids& signals) {
            for (const auto& [tensor, step, low, high] : signals) answer.ask_on_grid(tensor, step, low, high);
          },
          released, "Whether every value of some signals is a multiple of a step, from low to high.")
      .def("wait", &neurocuda::Answer::wait, released);
  m.def("all_finite", &neurocuda::all_finite, py::call_guard<py::gil_scoped_release>());
  m.def("integer_conv", &neurocuda::integer_conv, py::call_guard<py::gil_scoped_release>());
  m.def("same_integers", &neurocuda::same_integers, py::call_guard<py::gil_scoped_release>());

  py::class_<Slot>(m, "Slot").def(py::init<int>()).def_readonly("number", &Slot::number);
  py::class_<neurocuda::Program, std::shared_ptr<neurocuda::Program>>(
      m, "Program", "Operator calls, recorded once and run without Python between them.")
      .def(py::init<int>())
      .def("new_slot", [](neurocuda::Program& program) { return Slot{program.new_slot()}; })
      .def("constant", [](neurocuda::Program& program,
                          at::Tensor tensor) { return Slot{program.constant(std::move(tensor))}; })
      .def("add", &add)
      .def("finish", &neurocuda::Program::finish)
      .def(
          "run",
          [](const neurocuda::Program& program, std::vector<at::Tensor> inputs) {
            return program.run(std::move(inputs));
          },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "profile",
          [](const neurocuda::Program& program, std::vector<at::Tensor> inputs) {
            std::vector<std::pair<std::string, double>> times;
            program.run(std::move(inputs), &times);
            return times;
          },
          py::call_guard<py::gil_scoped_release>(),
          "The operators by name, and the nanoseconds that each took in a run.")
      .def("__len__", &neurocuda::Program::size);

  using neurocuda::CudaGraph;
  py::class_<CudaGraph>(m, "CudaGraph", "A CUDA graph that is replayed without Python code.")
      .def(py::init([](std::vector<at::Tensor> inputs, std::vector<at::Tensor> results, py::function current,
                       std::int64_t stream, py::function replay, py::function done, py::object lock) {
        return CudaGraph(std::move(inputs), std::move(results),
                         {std::move(current), stream, std::move(replay), std::move(done), std::move(lock)});
      }))
      .def("__call__", &CudaGraph::operator());

  using neurocuda::GuardedCall;
  py::class_<GuardedCall>(m, "GuardedCall", "A cached call of a network; None where a guard fails.")
      .def(py::init([](const py::object& run, const std::vector<at::Tensor>& inputs,
                       std::vector<py::str> names, std::vector<py::object> sources, const py::tuple& guards,
                       bool finite) {
        return GuardedCall(run_of(run, inputs), inputs, std::move(names), std::move(sources),
                           guards_from(guards), finite);
      }))
      .def("__call__", &GuardedCall::operator());
}
