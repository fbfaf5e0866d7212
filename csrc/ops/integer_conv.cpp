#include "ops/integer_conv.h"

#include <ATen/ops/empty.h>

#include <limits>

#include "ops/layout.h"
#include "ops/on_device.h"
#include "params/integer_conv.h"

namespace neurocuda {

namespace {

using at::Tensor;
using Numbers = std::vector<std::int64_t>;

void check(const Tensor& x, const Tensor& weight, const Tensor& scale, const std::optional<Tensor>& bias,
           const Numbers& size, const Numbers& kernel, const Numbers& stride, const Numbers& padding,
           const Numbers& dilation) {
  TORCH_CHECK_VALUE(x.dim() == 4 && x.scalar_type() == at::kByte && x.size(1) % kIntegerChannels == 0 &&
                        x.is_contiguous(at::MemoryFormat::ChannelsLast),
                    "x: expected uint8 [N, C, *space], the channels last in memory and a multiple of ",
                    kIntegerChannels, ", found ", x.scalar_type(), " ", x.sizes(), " with strides ",
                    x.strides());
  for (const Numbers* numbers : {&size, &kernel, &stride, &padding, &dilation})
    TORCH_CHECK_VALUE(numbers->size() == 2, "expected numbers of two axes, found ", *numbers);
  const std::int64_t out = scale.numel(), terms = x.size(1) * kernel[0] * kernel[1];
  const std::int64_t whole = (terms + kIntegerTerms - 1) / kIntegerTerms * kIntegerTerms;
  const std::int64_t rows = (out + integer_tile(out) - 1) / integer_tile(out) * integer_tile(out);
  TORCH_CHECK_VALUE(weight.scalar_type() == at::kChar && weight.sizes() == at::IntArrayRef({rows, whole}) &&
                        weight.is_contiguous(),
                    "weight: expected contiguous int8 ", at::IntArrayRef({rows, whole}), ", found ",
                    weight.scalar_type(), " ", weight.sizes());
  TORCH_CHECK_VALUE(scale.scalar_type() == at::kFloat && scale.is_contiguous(),
                    "scale: expected float32 [C_out], found ", scale.scalar_type(), " ", scale.sizes());
  TORCH_CHECK_VALUE(!bias.has_value() ||
                        (bias->scalar_type() == at::kFloat && bias->numel() == out && bias->is_contiguous()),
                    "bias: expected float32 [", out, "]");
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  TORCH_CHECK_VALUE(x.numel() / std::max<std::int64_t>(1, x.size(0)) < kMost,
                    "x: expected fewer than 2^31 elements in a frame, found ", x.sizes());
  for (int axis = 0; axis < 2; ++axis) {
    const std::int64_t reach = std::max(size[axis] * stride[axis], kernel[axis] * dilation[axis]);
    TORCH_CHECK_VALUE(x.size(axis + 2) < kMost / 4 && padding[axis] < kMost / 4 && reach < kMost / 4,
                      "x: expected fewer than 2^29 elements with padding in axis of space ", axis);
  }
  for (const Tensor* other : {&weight, &scale, bias ? &*bias : &scale})
    check_device("integer_conv", "weight, scale or bias", *other, x.device());
}

}  // namespace

Tensor integer_conv(const Tensor& x, const Tensor& weight, const Tensor& scale,
                    const std::optional<Tensor>& bias, const Numbers& size, const Numbers& kernel,
                    const Numbers& stride, const Numbers& padding, const Numbers& dilation) {
  check(x, weight, scale, bias, size, kernel, stride, padding, dilation);
  const std::int64_t out = scale.numel();
  Tensor y = at::empty({x.size(0), out, size[0], size[1]}, scale.options(), at::MemoryFormat::ChannelsLast);
  if (y.numel() == 0) return y;
  const auto axis = [&](int number) {
    return ConvAxis{x.size(number + 2), size[number],    kernel[number],
                    stride[number],     padding[number], dilation[number]};
  };
  const IntegerConv params{x.const_data_ptr<std::uint8_t>(),
                           weight.const_data_ptr<std::int8_t>(),
                           scale.const_data_ptr<float>(),
                           bias.has_value() ? bias->const_data_ptr<float>() : nullptr,
                           y.mutable_data_ptr<float>(),
                           x.size(0),
                           x.size(1),
                           out,
                           weight.size(1),
                           axis(0),
                           axis(1)};
  on_device(
      y, [&](cuda::Stream stream) { cuda::integer_conv(params, stream); },
      [&] { TORCH_CHECK_VALUE(false, "x: expected a tensor on a CUDA device, found one on ", x.device()); });
  return y;
}

}  // namespace neurocuda
