// The module neurocuda._C: loading it registers the operators; it knows what it was built for.

#include <ATen/Parallel.h>
#include <pybind11/pybind11.h>

#include <string>

namespace {

// Also read from the file itself, before it is loaded: a library built for another torch may not load at all.
extern "C" __attribute__((used, visibility("default"))) const char neurocuda_built_for[] =
    "neurocuda built for torch " NEUROCUDA_TORCH_VERSION;

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "The compiled operators of NeuroCUDA, registered as torch.ops.neurocuda.*";
  m.attr("torch_version") = NEUROCUDA_TORCH_VERSION;
  m.attr("compiler") = __VERSION__;
  m.def("parallel_info", &at::get_parallel_info, "How torch, and so these operators, run in parallel.");
}
