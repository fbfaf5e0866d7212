// branch_sum: the sum of branches, left fold in the order given, in float32.

#include "cpu/branch_sum.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

#include "cpu/neuron.h"
#include "ops/layout.h"
#include "ops/neuron.h"
#include "ops/on_device.h"

namespace neurocuda {
namespace {

using at::Tensor;

void branch_sum_out(at::TensorList branches, const Tensor& out) {
  check_branches("branch_sum", branches);
  TORCH_CHECK_VALUE(out.scalar_type() == at::kFloat && out.device() == branches[0].device() &&
                        out.sym_sizes() == branches[0].sym_sizes(),
                    "branch_sum: expected out in float32 on ", branches[0].device(), " of shape ",
                    branches[0].sym_sizes(), ", found ", name_of(out.scalar_type()), " on ", out.device(),
                    " of shape ", out.sym_sizes());
  if (out.is_meta()) return;
  at::assert_no_internal_overlap(out);
  for (const Tensor& branch : branches) at::assert_no_partial_overlap(out, branch);
  const Order order = order_of(out.sizes().slice(1), out.strides().slice(1));
  BranchSumParams call;
  call.steps = out.size(0);
  call.neurons = order.neurons;
  call.branch_count = static_cast<int>(branches.size());
  for (int branch = 0; branch < call.branch_count; ++branch) {
    call.branches[branch] = signal_of(branches[branch], true, order);
  }
  call.output = signal_of(out, true, order);
  if (call.steps == 0 || order.neurons == 0) return;
  on_device(
      out, [&](cuda::Stream stream) { cuda::branch_sum(call, stream); },
      [&] {
        const std::int64_t units = (order.neurons + cpu::kNeuronGrain - 1) / cpu::kNeuronGrain;
        at::parallel_for(0, units, grain(call.steps), [&](std::int64_t first, std::int64_t last) {
          cpu::branch_sum(call, first * cpu::kNeuronGrain, std::min(last * cpu::kNeuronGrain, order.neurons));
        });
      });
  mark_written(out);
}

Tensor branch_sum(at::TensorList branches) {
  check_branches("branch_sum", branches);
  const Tensor out =
      fresh(branches[0].sym_sizes(), output_strides(branches), branches[0].options().dtype(at::kFloat));
  branch_sum_out(branches, out);
  return out;
}

TORCH_LIBRARY_FRAGMENT(neurocuda, m) {
  m.def("branch_sum(Tensor[] branches) -> Tensor");
  m.def("branch_sum.out(Tensor[] branches, *, Tensor(a!) out) -> ()");  // `out` may be a branch
}

void implement(torch::Library& m) {
  m.impl("branch_sum", branch_sum);
  m.impl("branch_sum.out", branch_sum_out);
}

NEUROCUDA_IMPLEMENT(implement)
TORCH_LIBRARY_IMPL(neurocuda, Meta, m) { implement(m); }

}  // namespace
}  // namespace neurocuda
