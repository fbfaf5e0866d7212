// ordered_linear: W x + b summed in a defined order, [N, *batch, in] and [*batch, out, in] to [N, *batch,
// out].

#include "cpu/ordered_linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <string>

#include "ops/bound_layer.h"
#include "ops/layout.h"
#include "ops/on_device.h"
#include "ops/route.h"

namespace neurocuda {

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

void check_shapes(const Tensor& x, const Tensor& weight) {
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

c10::SymDimVector output_shape(const Tensor& x, const Tensor& weight) {
  c10::SymDimVector shape(x.sym_sizes().begin(), x.sym_sizes().end());
  shape.back() = weight.sym_size(-2);
  return shape;
}

void check_out(const Tensor& x, const Tensor& weight, const Tensor& out) {
  check_shapes(x, weight);
  const auto shape = output_shape(x, weight);
  TORCH_CHECK_VALUE(
      out.sym_sizes() == c10::SymIntArrayRef(shape) && out.scalar_type() == at::kFloat && out.is_contiguous(),
      "out: expected contiguous float32 ", c10::SymIntArrayRef(shape), ", found ", out.scalar_type(), " ",
      out.sym_sizes());
  check_device("ordered_linear", "out", out, x.device());
}

Tensor pack(const Tensor& weight) {
  TORCH_CHECK_VALUE(weight.dim() >= 2 && weight.scalar_type() == at::kFloat,
                    "weight: expected float32 [*batch, out, in], found ", weight.scalar_type(), " ",
                    weight.sizes());
  const std::int64_t out = weight.size(-2), in = weight.size(-1);
  const std::int64_t batch = c10::multiply_integers(weight.sizes().slice(0, weight.dim() - 2));
  return packed_weight(weight, batch, out, in);
}

Tensor pack_meta(const Tensor& weight) {
  c10::SymInt batch = 1;
  for (std::int64_t axis = 0; axis + 2 < weight.dim(); ++axis) batch = batch * weight.sym_size(axis);
  return at::empty_symint({batch, weight.sym_size(-1), padded_features(weight.sym_size(-2))},
                          weight.options());
}

Job<OrderedLinear> job_of(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                          const OptionalTensor& packed, c10::string_view route, const Tensor& out) {
  check_out(x, weight, out);
  const Tensor input = as_float_or_bytes(x).contiguous();
  const Tensor weights = aligned(packed.has_value() ? *packed : pack(weight));
  const std::int64_t in = weight.size(-1), features = weight.size(-2);
  const std::int64_t batch = c10::multiply_integers(weight.sizes().slice(0, weight.dim() - 2));
  const std::int64_t padded = padded_features(features);
  TORCH_CHECK_VALUE(weights.is_contiguous() && weights.scalar_type() == at::kFloat &&
                        weights.sizes() == at::IntArrayRef({batch, in, padded}),
                    "packed: expected the result of ordered_linear_pack(weight), found ", weights.sizes());
  check_device("ordered_linear", "packed", weights, x.device());
  Tensor offset;
  if (bias.has_value()) {
    TORCH_CHECK_VALUE(bias->scalar_type() == at::kFloat, "bias: expected float32, found ",
                      bias->scalar_type());
    check_device("ordered_linear", "bias", *bias, x.device());
    offset = bias->expand(weight.sizes().slice(0, weight.dim() - 1)).contiguous();
  }
  const OrderedLinear layer{input.const_data_ptr(),
                            input.scalar_type() != at::kFloat,
                            weights.const_data_ptr<float>(),
                            offset.defined() ? offset.const_data_ptr<float>() : nullptr,
                            out.mutable_data_ptr<float>(),
                            x.size(0),
                            batch,
                            in,
                            features,
                            route_named(route)};
  return {layer, input, weights, offset};
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

void compute_into(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                  const OptionalTensor& packed, c10::string_view route, const Tensor& out) {
  const Job<OrderedLinear> job = job_of(x, weight, bias, packed, route, out);
  on_device(
      out, [&](cuda::Stream stream) { cuda::ordered_linear(job.layer, stream); },
      [&] { run_on_cpu(job.layer); });
}

void compute_out(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                 const OptionalTensor& packed, c10::string_view route, const Tensor& out) {
  refuse_overlap(out, {&x, &weight, bias ? &*bias : nullptr, packed ? &*packed : nullptr});
  compute_into(x, weight, bias, packed, route, out);
  mark_written(out);
}

Tensor compute(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
               const OptionalTensor& packed, c10::string_view route) {
  check_shapes(x, weight);
  const Tensor out = fresh(output_shape(x, weight), {}, weight.options());
  compute_into(x, weight, bias, packed, route, out);
  return out;
}

Tensor meta(const Tensor& x, const Tensor& weight, const OptionalTensor&, const OptionalTensor&,
            c10::string_view) {
  check_shapes(x, weight);
  return at::empty_symint(output_shape(x, weight), weight.options());
}

void meta_into(const Tensor& x, const Tensor& weight, const OptionalTensor&, const OptionalTensor&,
               c10::string_view, const Tensor& out) {
  check_out(x, weight, out);
}

Tensor below_autograd(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                      const OptionalTensor& packed, c10::string_view route) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("neurocuda::ordered_linear", "")
                             .typed<decltype(compute)>();
  at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(x, weight, bias, packed, route);
}

class Gradient : public torch::autograd::Function<Gradient> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const OptionalTensor& bias, const OptionalTensor& packed, const std::string& route) {
    context->save_for_backward({x, weight, bias.value_or(Tensor())});
    return below_autograd(x, weight, bias, packed, route);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &gradient = gradients[0];
    Tensor to_x, to_weight, to_bias;
    if (context->needs_input_grad(0))
      to_x = at::matmul(gradient.unsqueeze(-2), weight).squeeze(-2).to(x.scalar_type());
    if (context->needs_input_grad(1))
      to_weight = at::einsum("n...o,n...i->...oi", {gradient, x.to(weight.scalar_type())});
    if (bias.defined() && context->needs_input_grad(2)) to_bias = at::sum_to(gradient, bias.sym_sizes());
    return {to_x, to_weight, to_bias, Tensor(), Tensor()};
  }
};

Tensor with_gradient(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                     const OptionalTensor& packed, c10::string_view route) {
  return Gradient::apply(x, weight, bias, packed, std::string(route));
}

}  // namespace

BoundLayer bound_linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                        const OptionalTensor& packed, c10::string_view route) {
  const Tensor out = fresh(output_shape(x, weight), {}, weight.options());
  return bound_of(job_of(x, weight, bias, packed, route, out), x, bias, packed, out, run_on_cpu);
}

namespace {

TORCH_LIBRARY_FRAGMENT(neurocuda, m) {
  m.def("ordered_linear_pack(Tensor weight) -> Tensor");
  m.def(
      "ordered_linear(Tensor x, Tensor weight, Tensor? bias=None, *, Tensor? packed=None, str "
      "route='measured')"
      " -> Tensor");
  m.def(
      "ordered_linear.out(Tensor x, Tensor weight, Tensor? bias=None, *, Tensor? packed=None, str "
      "route='measured', "
      "Tensor(a!) out) -> ()");
}

void implement(torch::Library& m) {
  m.impl("ordered_linear_pack", pack);
  m.impl("ordered_linear", compute);
  m.impl("ordered_linear.out", compute_out);
}

NEUROCUDA_IMPLEMENT(implement)

TORCH_LIBRARY_IMPL(neurocuda, Meta, m) {
  m.impl("ordered_linear_pack", pack_meta);
  m.impl("ordered_linear", meta);
  m.impl("ordered_linear.out", meta_into);
}

TORCH_LIBRARY_IMPL(neurocuda, Autograd, m) { m.impl("ordered_linear", with_gradient); }

}  // namespace

}  // namespace neurocuda
