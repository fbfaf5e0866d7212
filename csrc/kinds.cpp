#include "kinds.h"

#include <cstdint>

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

}  // namespace neurocuda
