// ordered_conv: cross-correlation summed in a defined order, [N, C_in, *space] to [N, C_out, *space], one or
// two axes of space.

#include "cpu/ordered_conv.h"

#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "ops/layout.h"
#include "ops/on_device.h"
#include "ops/operators.h"
#include "ops/ordered.h"

namespace neurocuda {

namespace {

using at::Tensor;
using Numbers = std::vector<std::int64_t>;

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

void check_numbers(const char* name, at::IntArrayRef values, std::size_t count, std::int64_t least) {
  const bool right =
      values.size() == count &&
      std::all_of(values.begin(), values.end(), [&](std::int64_t value) { return value >= least; });
  TORCH_CHECK_VALUE(right, name, ": expected ", count, " numbers from ", least, ", found ", values);
}

struct ConvArgs {
  Tensor x, weight, bias;
  Numbers stride, pads, dilation;  // of the axes of space; pads before and after each
  std::int64_t groups;
  Tensor prepacked;
  Route route;

  static ConvArgs of(Boxed a) {
    return {a[0].toTensor(),    a[1].toTensor(),       optional_tensor(a[2]),
            a[3].toIntVector(), a[4].toIntVector(),    a[5].toIntVector(),
            a[6].toInt(),       optional_tensor(a[7]), route_named(a[8].toStringView())};
  }

  // A tensor for the result, after checks.
  Tensor output() const {
    check_weight(weight, groups);
    const std::size_t space = weight.dim() - 2;
    check_numbers("stride", stride, space, 1);
    check_numbers("pads", pads, 2 * space, 0);
    check_numbers("dilation", dilation, space, 1);
    TORCH_CHECK_VALUE(x.dim() == weight.dim(), "x: expected ", weight.dim(),
                      " axes, [N, C_in, *space], found ", x.sym_sizes());
    TORCH_CHECK_VALUE(x.sym_size(1) == weight.sym_size(1) * groups, "x: expected ",
                      weight.sym_size(1) * groups, " channels, found ", x.sym_size(1));
    c10::SymDimVector shape{x.sym_size(0), weight.sym_size(0)};
    for (std::size_t axis = 0; axis < space; ++axis) {
      const auto reach = (weight.sym_size(axis + 2) - 1) * dilation[axis] + 1;
      const auto width = x.sym_size(axis + 2) + (pads[2 * axis] + pads[2 * axis + 1]);
      TORCH_CHECK_VALUE(width >= reach, "x: expected at least ", reach,
                        " elements with padding in axis of space ", axis, ", found ", width);
      shape.push_back((width - reach) / stride[axis] + 1);
    }
    check_device("ordered_conv", "weight", weight, x.device());
    return fresh(shape, {}, weight.options());
  }

  ConvAxis axis(std::size_t at, const Tensor& out) const {
    return {x.size(at + 2), out.size(at + 2), weight.size(at + 2), stride[at], pads[2 * at], dilation[at]};
  }
};

Job<OrderedConv> job_of(const ConvArgs& a, const Tensor& out) {
  const Tensor &x = a.x, &weight = a.weight;
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  TORCH_CHECK_VALUE(x.numel() / std::max<std::int64_t>(1, x.size(0)) < kMost,
                    "x: expected fewer than 2^31 elements in a frame, found ", x.sizes());
  for (std::size_t axis = 0; axis < a.stride.size(); ++axis) {
    const std::int64_t most = kMost - x.size(axis + 2);
    TORCH_CHECK_VALUE(a.pads[2 * axis] < most && a.pads[2 * axis + 1] < most - a.pads[2 * axis] &&
                          a.stride[axis] < kMost && a.dilation[axis] < kMost,
                      "x: expected fewer than 2^31 elements with padding in axis of space ", axis,
                      ", and smaller strides");
  }
  const Tensor input = as_float_or_bytes(x);
  const std::int64_t channels = weight.size(0), taps = weight.numel() / channels;
  const Tensor weights =
      prepacked_weight("ordered_conv", a.prepacked, weight, {a.groups, channels / a.groups, taps});
  TORCH_CHECK_VALUE(!a.bias.defined() || a.bias.dim() <= 1,
                    "bias: expected float32 [C_out] or one value, found ", a.bias.scalar_type(), " ",
                    a.bias.sizes());
  const Tensor offset = expanded_bias("ordered_conv", a.bias, weight, {channels});
  const std::size_t last = a.stride.size() - 1;
  OrderedConv layer{input.const_data_ptr(),
                    input.scalar_type() != at::kFloat,
                    weights.const_data_ptr<float>(),
                    offset.defined() ? offset.const_data_ptr<float>() : nullptr,
                    out.mutable_data_ptr<float>(),
                    x.size(0),
                    a.groups,
                    x.size(1),
                    channels,
                    last ? a.axis(0, out) : ConvAxis{1, 1, 1, 1, 0, 1},
                    a.axis(last, out),
                    a.route,
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

bool is_pointwise(const Tensor& weight) {
  const auto kernel = weight.sym_sizes().slice(2);
  return std::all_of(kernel.begin(), kernel.end(), [](const c10::SymInt& size) { return size == 1; });
}

std::vector<Tensor> backward_of_conv(const Backward& pass) {
  const Boxed saved = pass.saved;
  const Tensor x = saved[0].toTensor(), weight = saved[1].toTensor(), &gradient = pass.gradients[0];
  const Numbers stride = saved[3].toIntVector(), pads = saved[4].toIntVector(),
                dilation = saved[5].toIntVector();
  const std::size_t space = stride.size();
  Numbers padding;  // of the last axis first, as constant_pad_nd takes it
  for (std::size_t axis = space; axis-- > 0;)
    padding.insert(padding.end(), {pads[2 * axis], pads[2 * axis + 1]});
  const Tensor padded = at::constant_pad_nd(x.to(weight.scalar_type()), padding);
  const bool to_x = pass.needed[0], to_weight = pass.needed[1];
  const std::int64_t groups = saved[6].toInt();
  const Numbers none(space, 0), ones(space, 1);
  const auto backward_of = [&](const Tensor& signal, const Numbers& steps, bool by_signal, bool by_kernel) {
    return at::convolution_backward(gradient, signal, weight, std::nullopt, steps, none, dilation, false,
                                    none, groups, std::array<bool, 3>{by_signal, by_kernel, false});
  };
  // oneDNN may write outside its memory: neurocuda/ops/pointwise.py describes where, and why this is safe.
  const bool apart = to_weight && x.is_cpu() && is_pointwise(weight) && stride != ones;
  auto [by_x, by_weight, unused] = backward_of(padded, stride, to_x, to_weight && !apart);
  if (apart) {
    Tensor taken = padded;
    for (std::size_t axis = 0; axis < space; ++axis)
      taken = taken.slice(axis + 2, std::nullopt, std::nullopt, stride[axis]);
    by_weight = std::get<1>(backward_of(taken, ones, false, true));
  }
  for (std::size_t axis = 0; to_x && axis < space; ++axis)
    by_x = by_x.narrow_symint(axis + 2, pads[2 * axis], x.sym_size(axis + 2));
  Tensor by_bias;
  if (pass.needed[2]) {
    const Tensor bias = saved[2].toTensor();
    c10::SymDimVector channels(space + 1, 1);
    channels[0] = bias.sym_numel();
    by_bias = at::sum_to(gradient, channels).reshape_symint(bias.sym_sizes());
  }
  return {by_x, by_weight, by_bias};
}

}  // namespace

Tensor ordered_conv(Boxed arguments) {
  const auto a = ConvArgs::of(arguments);
  const Tensor out = a.output();
  if (out.is_meta()) return out;
  const Job<OrderedConv> job = job_of(a, out);
  if (out.numel() == 0) return out;
  on_device(
      out, [&](cuda::Stream stream) { cuda::ordered_conv(job.layer, stream); },
      [&] { run_on_cpu(job.layer); });
  return out;
}

BoundLayer bound_conv(Boxed arguments) {
  const auto a = ConvArgs::of(arguments);
  const Tensor out = a.output();
  if (out.numel() == 0) return nullptr;
  return bound_of(job_of(a, out), a.x, a.bias, a.prepacked, out, run_on_cpu);
}

Tensor ordered_conv_prepack(Boxed arguments) {
  const Tensor weight = arguments[0].toTensor();
  const std::int64_t groups = arguments[1].toInt();
  check_weight(weight, groups);
  const auto out = weight.sym_size(0);
  return prepack(weight, {groups, out / groups, weight.sym_numel() / out});
}

Formula ordered_conv_formula() { return {7, false, backward_of_conv}; }

}  // namespace neurocuda
