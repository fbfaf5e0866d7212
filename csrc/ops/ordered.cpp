#include "ops/ordered.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "cpu/ordered_linear.h"
#include "ops/layout.h"
#include "ops/on_device.h"

namespace neurocuda {

Route route_named(c10::string_view name) {
  if (name == "measured") return Route::kMeasured;
  if (name == "dense") return Route::kDense;
  TORCH_CHECK_VALUE(name == "events", "route: expected measured, dense or events, found ", name);
  return Route::kEvents;
}

namespace {

// As for a size that is known.
c10::SymInt padded_size(const c10::SymInt& features) {
  if (!features.is_symbolic()) return padded_features(features.expect_int());
  if (features <= 8) return features <= 4 ? 4 : 8;
  return (features + 15) / 16 * 16;
}

}  // namespace

at::Tensor prepack(const at::Tensor& weight, const Matrices<c10::SymInt>& shape) {
  const c10::SymInt padded = padded_size(shape.out);
  if (weight.is_meta()) return at::empty_symint({shape.batch, shape.in, padded}, weight.options());
  const std::int64_t batch = shape.batch.expect_int(), out = shape.out.expect_int(),
                     in = shape.in.expect_int();
  const std::vector<std::int64_t> sizes{batch, in, padded.expect_int()};
  at::Tensor prepacked;
  const auto on_cuda = [&](cuda::Stream) {
    prepacked = at::zeros(sizes, weight.options());
    prepacked.narrow(2, 0, out).copy_(weight.reshape({batch, out, in}).transpose(1, 2));
  };
  const auto on_cpu = [&] {
    const at::Tensor dense = weight.contiguous();
    prepacked = at::empty(sizes, weight.options());
    cpu::prepack_linear(dense.const_data_ptr<float>(), prepacked.mutable_data_ptr<float>(), batch, out, in);
  };
  on_device(weight, on_cuda, on_cpu);
  return prepacked;
}

at::Tensor prepacked_weight(const char* op, const at::Tensor& prepacked, const at::Tensor& weight,
                            const Matrices<std::int64_t>& shape) {
  const at::Tensor weights =
      prepacked.defined() ? prepacked : prepack(weight, {shape.batch, shape.out, shape.in});
  TORCH_CHECK_VALUE(
      weights.is_contiguous() && weights.scalar_type() == at::kFloat &&
          weights.sizes() == at::IntArrayRef({shape.batch, shape.in, padded_features(shape.out)}),
      "prepacked: expected the result of ", op, "_prepack, found ", weights.sizes());
  check_device(op, "prepacked", weights, weight.device());
  return reinterpret_cast<std::uintptr_t>(weights.const_data_ptr()) % 16 == 0 ? weights : weights.clone();
}

at::Tensor expanded_bias(const char* op, const at::Tensor& bias, const at::Tensor& weight,
                         at::IntArrayRef shape) {
  if (!bias.defined()) return bias;
  TORCH_CHECK_VALUE(bias.scalar_type() == at::kFloat, "bias: expected float32, found ", bias.scalar_type());
  check_device(op, "bias", bias, weight.device());
  return bias.expand(shape).contiguous();
}

at::Tensor as_float_or_bytes(const at::Tensor& x) {
  TORCH_CHECK_VALUE(readable(x.scalar_type()),
                    "x: expected float32, float16, bfloat16, uint8 or bool, found ", x.scalar_type());
  const bool half = x.scalar_type() == at::kHalf || x.scalar_type() == at::kBFloat16;
  return half ? x.to(at::kFloat).contiguous() : x.contiguous();
}

}  // namespace neurocuda
