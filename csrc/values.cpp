#include "values.h"

#include <ATen/Parallel.h>
#include <ATen/ops/isfinite.h>

#include <atomic>
#include <cstring>

#include "cpu/finite.h"

namespace neurocuda {

bool same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t at = 0; at < a.size(); ++at) {
    const at::Tensor &left = a[at], &right = b[at];
    if (left.scalar_type() != right.scalar_type() || left.sizes() != right.sizes() ||
        left.strides() != right.strides() || left.device() != right.device()) {
      return false;
    }
    if (left.const_data_ptr() == right.const_data_ptr()) continue;
    if (!left.is_non_overlapping_and_dense()) return false;
    if (std::memcmp(left.const_data_ptr(), right.const_data_ptr(), left.nbytes()) != 0) return false;
  }
  return true;
}

bool all_finite(const at::Tensor& tensor) {
  if (tensor.scalar_type() != at::kFloat || !tensor.has_storage() || !tensor.is_non_overlapping_and_dense()) {
    return at::isfinite(tensor).all().item<bool>();
  }
  constexpr std::int64_t kGrain = 1 << 16;
  const float* values = tensor.const_data_ptr<float>();
  std::atomic<bool> finite = true;
  at::parallel_for(0, tensor.numel(), kGrain, [&](std::int64_t first, std::int64_t last) {
    if (!cpu::all_finite(values + first, last - first)) finite = false;
  });
  return finite;
}

}  // namespace neurocuda
