#include "runtime/cuda_graph.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/empty.h>

namespace py = pybind11;

namespace neurocuda {
namespace {

class Lock {
 public:
  explicit Lock(const py::object& lock) : lock_(lock) { lock_.attr("acquire")(); }
  ~Lock() { lock_.attr("release")(); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  const py::object& lock_;
};

// The part of a tensor that is stored: one element of each axis of stride 0.
at::Tensor written(at::Tensor tensor) {
  for (std::int64_t axis = 0; axis < tensor.dim(); ++axis) {
    if (tensor.stride(axis) == 0 && tensor.size(axis) > 1) tensor = tensor.narrow(axis, 0, 1);
  }
  return tensor;
}

}  // namespace

std::vector<at::Tensor> CudaGraph::operator()(const std::vector<at::Tensor>& given) const {
  if (launch_.current().cast<std::int64_t>() != launch_.stream) return {};
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  std::vector<at::Tensor> values, results;
  for (const at::Tensor& tensor : given) values.push_back(written(tensor));
  for (const at::Tensor& result : results_) results.push_back(at::empty(result.sizes(), result.options()));
  const Lock alone(launch_.lock);
  at::_foreach_copy_(inputs_, values);
  launch_.replay();
  at::_foreach_copy_(results, results_);
  launch_.done();
  return results;
}

}  // namespace neurocuda
