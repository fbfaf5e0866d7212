// branch_sum: the sum of branches, left fold in the order given, in float32.

#include "cpu/branch_sum.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "cpu/neuron.h"
#include "ops/layout.h"
#include "ops/neuron.h"
#include "ops/on_device.h"
#include "ops/operators.h"

namespace neurocuda {

at::Tensor branch_sum(Boxed arguments) {
  const std::vector<at::Tensor> branches = arguments[0].toTensorVector();
  check_branches("branch_sum", branches);
  const at::Tensor out =
      fresh(branches[0].sym_sizes(), output_strides(branches), branches[0].options().dtype(at::kFloat));
  if (out.is_meta() || out.numel() == 0) return out;
  const Order order = order_of(out.sizes().slice(1), out.strides().slice(1));
  BranchSumParams params;
  params.steps = out.size(0);
  params.neurons = order.neurons;
  params.branch_count = static_cast<int>(branches.size());
  for (int branch = 0; branch < params.branch_count; ++branch) {
    params.branches[branch] = signal_of(branches[branch], true, order);
  }
  params.output = signal_of(out, true, order);
  on_device(
      out, [&](cuda::Stream stream) { cuda::branch_sum(params, stream); },
      [&] {
        const std::int64_t units = (order.neurons + cpu::kNeuronGrain - 1) / cpu::kNeuronGrain;
        at::parallel_for(0, units, grain(params.steps), [&](std::int64_t first, std::int64_t last) {
          cpu::branch_sum(params, first * cpu::kNeuronGrain,
                          std::min(last * cpu::kNeuronGrain, order.neurons));
        });
      });
  return out;
}

Formula branch_sum_formula() {
  return {0, false, [](const Backward& pass) { return pass.gradients; }};
}

}  // namespace neurocuda
