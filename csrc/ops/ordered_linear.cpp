// ordered_linear: W x + b summed in a defined order, [N, *batch, in] and [*batch, out, in] to [N, *batch,
// out].

#include "cpu/ordered_linear.h"

#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/matmul.h>

#include <algorithm>

#include "ops/layout.h"
#include "ops/on_device.h"
#include "ops/operators.h"
#include "ops/ordered.h"

namespace neurocuda {

namespace {

using at::Tensor;

struct LinearArgs {
  Tensor x, weight, bias, prepacked;
  Route route;

  static LinearArgs of(Boxed a) {
    return {a[0].toTensor(), a[1].toTensor(), optional_tensor(a[2]), optional_tensor(a[3]),
            route_named(a[4].toStringView())};
  }

  void check() const {
    TORCH_CHECK_VALUE(weight.dim() >= 2, "weight: expected [*batch, out, in], found ", weight.sym_sizes());
    TORCH_CHECK_VALUE(weight.scalar_type() == at::kFloat, "weight: expected float32, found ",
                      weight.scalar_type());
    TORCH_CHECK_VALUE(x.dim() == weight.dim(), "x: expected ", weight.dim(), " axes, [N, *batch, in], found ",
                      x.sym_sizes());
    TORCH_CHECK_VALUE(x.sym_size(-1) == weight.sym_size(-1), "x: expected ", weight.sym_size(-1),
                      " input features, found ", x.sym_size(-1));
    for (std::int64_t axis = 0; axis + 2 < weight.dim(); ++axis) {
      TORCH_CHECK_VALUE(x.sym_size(axis + 1) == weight.sym_size(axis), "x: expected ", weight.sym_size(axis),
                        " in batch axis ", axis, ", found ", x.sym_size(axis + 1));
    }
    check_device("ordered_linear", "weight", weight, x.device());
  }

  // A tensor for the result.
  Tensor output() const {
    c10::SymDimVector shape(x.sym_sizes().begin(), x.sym_sizes().end());
    shape.back() = weight.sym_size(-2);
    return fresh(shape, {}, weight.options());
  }
};

Job<OrderedLinear> job_of(const LinearArgs& a, const Tensor& out) {
  const Tensor& weight = a.weight;
  const Tensor input = as_float_or_bytes(a.x);
  const std::int64_t in = weight.size(-1), features = weight.size(-2);
  const std::int64_t batch = c10::multiply_integers(weight.sizes().slice(0, weight.dim() - 2));
  const Tensor weights = prepacked_weight("ordered_linear", a.prepacked, weight, {batch, features, in});
  const Tensor offset =
      expanded_bias("ordered_linear", a.bias, weight, weight.sizes().slice(0, weight.dim() - 1));
  const OrderedLinear layer{input.const_data_ptr(),
                            input.scalar_type() != at::kFloat,
                            weights.const_data_ptr<float>(),
                            offset.defined() ? offset.const_data_ptr<float>() : nullptr,
                            out.mutable_data_ptr<float>(),
                            a.x.size(0),
                            batch,
                            in,
                            features,
                            a.route};
  return {layer, input, weights, offset, {}};
}

void run_on_cpu(const OrderedLinear& layer) {
  const std::int64_t rows = layer.rows, work = layer.in * padded_features(layer.out) / 16;
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 16) / std::max<std::int64_t>(1, work));
  at::parallel_for(0, layer.batch * rows, grain, [&](std::int64_t begin, std::int64_t end) {
    while (begin < end) {
      const std::int64_t matrix = begin / rows, stop = std::min(end, (matrix + 1) * rows);
      cpu::ordered_linear(layer, matrix, begin - matrix * rows, stop - matrix * rows);
      begin = stop;
    }
  });
}

std::vector<Tensor> backward_of_linear(const Backward& pass) {
  const Tensor x = pass.saved[0].toTensor(), weight = pass.saved[1].toTensor();
  const Tensor& gradient = pass.gradients[0];
  std::vector<Tensor> found(3);
  if (pass.needed[0]) found[0] = at::matmul(gradient.unsqueeze(-2), weight).squeeze(-2);
  if (pass.needed[1]) found[1] = at::einsum("n...o,n...i->...oi", {gradient, x.to(weight.scalar_type())});
  if (pass.needed[2]) found[2] = at::sum_to(gradient, pass.saved[2].toTensor().sym_sizes());
  return found;
}

}  // namespace

Tensor ordered_linear(Boxed arguments) {
  const auto a = LinearArgs::of(arguments);
  a.check();
  const Tensor out = a.output();
  if (out.is_meta()) return out;
  const Job<OrderedLinear> job = job_of(a, out);
  on_device(
      out, [&](cuda::Stream stream) { cuda::ordered_linear(job.layer, stream); },
      [&] { run_on_cpu(job.layer); });
  return out;
}

BoundLayer bound_linear(Boxed arguments) {
  const auto a = LinearArgs::of(arguments);
  a.check();
  const Tensor out = a.output();
  return bound_of(job_of(a, out), a.x, a.bias, a.prepacked, out, run_on_cpu);
}

Tensor ordered_linear_prepack(Boxed arguments) {
  const Tensor weight = arguments[0].toTensor();
  TORCH_CHECK_VALUE(weight.dim() >= 2 && weight.scalar_type() == at::kFloat,
                    "weight: expected float32 [*batch, out, in], found ", weight.scalar_type(), " ",
                    weight.sym_sizes());
  c10::SymInt batch = 1;
  for (std::int64_t axis = 0; axis + 2 < weight.dim(); ++axis) batch = batch * weight.sym_size(axis);
  return prepack(weight, {batch, weight.sym_size(-2), weight.sym_size(-1)});
}

Formula ordered_linear_formula() { return {3, false, backward_of_linear}; }

}  // namespace neurocuda
