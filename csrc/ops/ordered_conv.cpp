// ordered_conv: cross-correlation summed in a defined order, [N, C_in, *space] to [N, C_out, *space], one or
// two axes of space.

#include "cpu/ordered_conv.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <vector>

#include "ops/bound_layer.h"
#include "ops/layout.h"
#include "ops/on_device.h"
#include "ops/route.h"

namespace neurocuda {

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Numbers = at::IntArrayRef;

void check_weight(const Tensor& weight, std::int64_t groups) {
  TORCH_CHECK_VALUE(weight.dim() == 3 || weight.dim() == 4,
                    "weight: expected [C_out, C_in / groups, *kernel] with one or two axes of space, found ",
                    weight.sym_sizes());
  TORCH_CHECK_VALUE(weight.scalar_type() == at::kFloat, "weight: expected float32, found ",
                    weight.scalar_type());
  TORCH_CHECK_VALUE(groups > 0 && weight.sym_size(0) % groups == 0, "groups: expected a divisor of ",
                    weight.sym_size(0), " output channels, found ", groups);
  TORCH_CHECK_VALUE(weight.sym_numel() > 0, "weight: expected at least one element, found ",
                    weight.sym_sizes());
}

void check_numbers(const char* name, Numbers values, std::size_t count, std::int64_t least) {
  const bool right =
      values.size() == count &&
      std::all_of(values.begin(), values.end(), [&](std::int64_t value) { return value >= least; });
  TORCH_CHECK_VALUE(right, name, ": expected ", count, " numbers from ", least, ", found ", values);
}

// The shape of the result, after checks.
c10::SymDimVector output_shape(const Tensor& x, const Tensor& weight, Numbers stride, Numbers pads,
                               Numbers dilation, std::int64_t groups) {
  check_weight(weight, groups);
  const std::size_t space = weight.dim() - 2;
  check_numbers("stride", stride, space, 1);
  check_numbers("pads", pads, 2 * space, 0);
  check_numbers("dilation", dilation, space, 1);
  TORCH_CHECK_VALUE(x.dim() == weight.dim(), "x: expected ", weight.dim(), " axes, [N, C_in, *space], found ",
                    x.sym_sizes());
  TORCH_CHECK_VALUE(x.sym_size(1) == weight.sym_size(1) * groups, "x: expected ", weight.sym_size(1) * groups,
                    " channels, found ", x.sym_size(1));
  c10::SymDimVector shape{x.sym_size(0), weight.sym_size(0)};
  for (std::size_t axis = 0; axis < space; ++axis) {
    const auto reach = (weight.sym_size(axis + 2) - 1) * dilation[axis] + 1;
    const auto width = x.sym_size(axis + 2) + (pads[2 * axis] + pads[2 * axis + 1]);
    TORCH_CHECK_VALUE(width >= reach, "x: expected at least ", reach,
                      " elements with padding in axis of space ", axis, ", found ", width);
    shape.push_back((width - reach) / stride[axis] + 1);
  }
  check_device("ordered_conv", "weight", weight, x.device());
  return shape;
}

void check_out(c10::SymIntArrayRef shape, const Tensor& x, const Tensor& out) {
  TORCH_CHECK_VALUE(out.sym_sizes() == shape && out.scalar_type() == at::kFloat && out.is_contiguous(),
                    "out: expected contiguous float32 ", shape, ", found ", out.scalar_type(), " ",
                    out.sym_sizes());
  check_device("ordered_conv", "out", out, x.device());
}

Tensor pack(const Tensor& weight, std::int64_t groups) {
  check_weight(weight, groups);
  const std::int64_t out = weight.size(0), taps = weight.numel() / out;
  return packed_weight(weight, groups, out / groups, taps);
}

Tensor pack_meta(const Tensor& weight, std::int64_t groups) {
  check_weight(weight, groups);
  const auto out = weight.sym_size(0);
  return at::empty_symint({groups, weight.sym_numel() / out, padded_features(out / groups)},
                          weight.options());
}

ConvAxis axis_of(const Tensor& x, const Tensor& weight, const Tensor& out, std::size_t axis, Numbers stride,
                 Numbers pads, Numbers dilation) {
  return {x.size(axis + 2), out.size(axis + 2), weight.size(axis + 2),
          stride[axis],     pads[2 * axis],     dilation[axis]};
}

Job<OrderedConv> job_of(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Numbers stride,
                        Numbers pads, Numbers dilation, std::int64_t groups, const OptionalTensor& packed,
                        c10::string_view route, const Tensor& out) {
  check_out(output_shape(x, weight, stride, pads, dilation, groups), x, out);
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  TORCH_CHECK_VALUE(x.numel() / std::max<std::int64_t>(1, x.size(0)) < kMost,
                    "x: expected fewer than 2^31 elements in a frame, found ", x.sizes());
  for (std::size_t axis = 0; axis + 2 < static_cast<std::size_t>(x.dim()); ++axis) {
    const std::int64_t most = kMost - x.size(axis + 2);
    TORCH_CHECK_VALUE(pads[2 * axis] < most && pads[2 * axis + 1] < most - pads[2 * axis] &&
                          stride[axis] < kMost && dilation[axis] < kMost,
                      "x: expected fewer than 2^31 elements with padding in axis of space ", axis,
                      ", and smaller strides");
  }
  const Tensor input = as_float_or_bytes(x).contiguous();
  const Tensor weights = aligned(packed.has_value() ? *packed : pack(weight, groups));
  const std::int64_t taps = weight.numel() / weight.size(0),
                     padded = padded_features(weight.size(0) / groups);
  TORCH_CHECK_VALUE(weights.is_contiguous() && weights.scalar_type() == at::kFloat &&
                        weights.sizes() == at::IntArrayRef({groups, taps, padded}),
                    "packed: expected the result of ordered_conv_pack(weight, groups), found ",
                    weights.sizes());
  check_device("ordered_conv", "packed", weights, x.device());
  Tensor offset;
  if (bias.has_value()) {
    TORCH_CHECK_VALUE(bias->scalar_type() == at::kFloat && bias->dim() <= 1,
                      "bias: expected float32 [C_out] or one ", "value, found ", bias->scalar_type(), " ",
                      bias->sizes());
    check_device("ordered_conv", "bias", *bias, x.device());
    offset = bias->expand({weight.size(0)}).contiguous();
  }
  const std::size_t last = weight.dim() - 3;
  OrderedConv layer{input.const_data_ptr(),
                    input.scalar_type() != at::kFloat,
                    weights.const_data_ptr<float>(),
                    offset.defined() ? offset.const_data_ptr<float>() : nullptr,
                    out.mutable_data_ptr<float>(),
                    x.size(0),
                    groups,
                    x.size(1),
                    weight.size(0),
                    last ? axis_of(x, weight, out, 0, stride, pads, dilation) : ConvAxis{1, 1, 1, 1, 0, 1},
                    axis_of(x, weight, out, last, stride, pads, dilation),
                    route_named(route),
                    nullptr};
  Tensor scratch;
  if (const std::int64_t bytes = computes_on_cuda(out) ? spike_bits_of(layer).bytes() : 0) {
    scratch = at::empty({bytes}, weights.options().dtype(at::kByte));
    scratch.narrow(0, 0, kSpikesFound).zero_();
    layer.scratch = scratch.mutable_data_ptr();
  }
  return {layer, input, weights, offset, scratch};
}

void run_on_cpu(const OrderedConv& layer) {
  const std::int64_t taps = layer.in / layer.groups * layer.rows.kernel * layer.columns.kernel;
  // Cycles a frame, if dense.
  const std::int64_t work = layer.out * layer.rows.out * layer.columns.out * taps / 16;
  at::parallel_for(0, layer.frames, std::max<std::int64_t>(1, (1 << 16) / std::max<std::int64_t>(1, work)),
                   [&](std::int64_t begin, std::int64_t end) { cpu::ordered_conv(layer, begin, end); });
}

void compute_into(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Numbers stride,
                  Numbers pads, Numbers dilation, std::int64_t groups, const OptionalTensor& packed,
                  c10::string_view route, const Tensor& out) {
  const Job<OrderedConv> job = job_of(x, weight, bias, stride, pads, dilation, groups, packed, route, out);
  if (out.numel() == 0) return;
  on_device(
      out, [&](cuda::Stream stream) { cuda::ordered_conv(job.layer, stream); },
      [&] { run_on_cpu(job.layer); });
}

void compute_out(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Numbers stride,
                 Numbers pads, Numbers dilation, std::int64_t groups, const OptionalTensor& packed,
                 c10::string_view route, const Tensor& out) {
  refuse_overlap(out, {&x, &weight, bias ? &*bias : nullptr, packed ? &*packed : nullptr});
  compute_into(x, weight, bias, stride, pads, dilation, groups, packed, route, out);
  mark_written(out);
}

Tensor compute(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Numbers stride,
               Numbers pads, Numbers dilation, std::int64_t groups, const OptionalTensor& packed,
               c10::string_view route) {
  const auto shape = output_shape(x, weight, stride, pads, dilation, groups);
  const Tensor out = fresh(shape, {}, weight.options());
  compute_into(x, weight, bias, stride, pads, dilation, groups, packed, route, out);
  return out;
}

Tensor meta(const Tensor& x, const Tensor& weight, const OptionalTensor&, Numbers stride, Numbers pads,
            Numbers dilation, std::int64_t groups, const OptionalTensor&, c10::string_view) {
  return at::empty_symint(output_shape(x, weight, stride, pads, dilation, groups), weight.options());
}

void meta_into(const Tensor& x, const Tensor& weight, const OptionalTensor&, Numbers stride, Numbers pads,
               Numbers dilation, std::int64_t groups, const OptionalTensor&, c10::string_view,
               const Tensor& out) {
  check_out(output_shape(x, weight, stride, pads, dilation, groups), x, out);
}

Tensor below_autograd(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Numbers stride,
                      Numbers pads, Numbers dilation, std::int64_t groups, const OptionalTensor& packed,
                      c10::string_view route) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("neurocuda::ordered_conv", "")
                             .typed<decltype(compute)>();
  at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(x, weight, bias, stride, pads, dilation, groups, packed, route);
}

bool is_pointwise(const Tensor& weight) {
  const auto kernel = weight.sym_sizes().slice(2);
  return std::all_of(kernel.begin(), kernel.end(), [](const c10::SymInt& size) { return size == 1; });
}

class Gradient : public torch::autograd::Function<Gradient> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const OptionalTensor& bias, const std::vector<std::int64_t>& stride,
                        const std::vector<std::int64_t>& pads, const std::vector<std::int64_t>& dilation,
                        std::int64_t groups, const OptionalTensor& packed, const std::string& route) {
    context->save_for_backward({x, weight, bias.value_or(Tensor())});
    context->saved_data["stride"] = stride;
    context->saved_data["pads"] = pads;
    context->saved_data["dilation"] = dilation;
    context->saved_data["groups"] = groups;
    return below_autograd(x, weight, bias, stride, pads, dilation, groups, packed, route);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &gradient = gradients[0];
    const auto stride = context->saved_data["stride"].toIntVector(),
               pads = context->saved_data["pads"].toIntVector(),
               dilation = context->saved_data["dilation"].toIntVector();
    const std::size_t space = stride.size();
    std::vector<std::int64_t> padding;  // of the last axis first, as constant_pad_nd takes it
    for (std::size_t axis = space; axis-- > 0;)
      padding.insert(padding.end(), {pads[2 * axis], pads[2 * axis + 1]});
    const Tensor padded = at::constant_pad_nd(x.to(weight.scalar_type()), padding);
    const bool to_x = context->needs_input_grad(0), to_weight = context->needs_input_grad(1);
    const std::int64_t groups = context->saved_data["groups"].toInt();
    const std::vector<std::int64_t> none(space, 0), ones(space, 1);
    const auto backward_of = [&](const Tensor& signal, const std::vector<std::int64_t>& steps, bool by_signal,
                                 bool by_kernel) {
      return at::convolution_backward(gradient, signal, weight, std::nullopt, steps, none, dilation, false,
                                      none, groups, std::array<bool, 3>{by_signal, by_kernel, false});
    };
    // The library for CPUs may write outside its memory: neurocuda/ops/pointwise.py says where, and why this
    // is safe.
    const bool apart = to_weight && x.is_cpu() && is_pointwise(weight) && stride != ones;
    auto [by_x, by_weight, unused] = backward_of(padded, stride, to_x, to_weight && !apart);
    if (apart) {
      Tensor taken = padded;
      for (std::size_t axis = 0; axis < space; ++axis)
        taken = taken.slice(axis + 2, std::nullopt, std::nullopt, stride[axis]);
      by_weight = std::get<1>(backward_of(taken, ones, false, true));
    }
    if (to_x) {
      for (std::size_t axis = 0; axis < space; ++axis)
        by_x = by_x.narrow_symint(axis + 2, pads[2 * axis], x.sym_size(axis + 2));
      by_x = by_x.to(x.scalar_type());
    }
    Tensor by_bias;
    if (bias.defined() && context->needs_input_grad(2)) {
      c10::SymDimVector channels(space + 1, 1);
      channels[0] = bias.sym_numel();
      by_bias = at::sum_to(gradient, channels).reshape_symint(bias.sym_sizes());
    }
    return {by_x, by_weight, by_bias, Tensor(), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor with_gradient(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Numbers stride,
                     Numbers pads, Numbers dilation, std::int64_t groups, const OptionalTensor& packed,
                     c10::string_view route) {
  return Gradient::apply(x, weight, bias, stride.vec(), pads.vec(), dilation.vec(), groups, packed,
                         std::string(route));
}

}  // namespace

BoundLayer bound_conv(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Numbers stride,
                      Numbers pads, Numbers dilation, std::int64_t groups, const OptionalTensor& packed,
                      c10::string_view route) {
  const Tensor out = fresh(output_shape(x, weight, stride, pads, dilation, groups), {}, weight.options());
  if (out.numel() == 0) return nullptr;
  return bound_of(job_of(x, weight, bias, stride, pads, dilation, groups, packed, route, out), x, bias,
                  packed, out, run_on_cpu);
}

namespace {

TORCH_LIBRARY_FRAGMENT(neurocuda, m) {
  m.def("ordered_conv_pack(Tensor weight, int groups) -> Tensor");
  m.def(
      "ordered_conv(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] pads, int[] dilation, int "
      "groups, *, "
      "Tensor? packed=None, str route='measured') -> Tensor");
  m.def(
      "ordered_conv.out(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] pads, int[] dilation, int "
      "groups, "
      "*, Tensor? packed=None, str route='measured', Tensor(a!) out) -> ()");
}

void implement(torch::Library& m) {
  m.impl("ordered_conv_pack", pack);
  m.impl("ordered_conv", compute);
  m.impl("ordered_conv.out", compute_out);
}

NEUROCUDA_IMPLEMENT(implement)

TORCH_LIBRARY_IMPL(neurocuda, Meta, m) {
  m.impl("ordered_conv_pack", pack_meta);
  m.impl("ordered_conv", meta);
  m.impl("ordered_conv.out", meta_into);
}

TORCH_LIBRARY_IMPL(neurocuda, Autograd, m) { m.impl("ordered_conv", with_gradient); }

}  // namespace

}  // namespace neurocuda
