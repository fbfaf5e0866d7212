// What the ordered layers share: the way their sum is computed, and the inputs that they take.
#pragma once

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>

#include <initializer_list>

#include "cpu/ordered_linear.h"
#include "ops/on_device.h"
#include "params/ordered_linear.h"

namespace neurocuda {

inline Route route_named(c10::string_view name) {
  if (name == "measured") return Route::kMeasured;
  if (name == "dense") return Route::kDense;
  TORCH_CHECK_VALUE(name == "events", "route: expected measured, dense or events, found ", name);
  return Route::kEvents;
}

// The same of a size that may be symbolic.
inline c10::SymInt padded_features(const c10::SymInt& features) {
  if (!features.is_symbolic()) return padded_features(features.expect_int());
  if (features <= 8) return features <= 4 ? 4 : 8;
  return (features + 15) / 16 * 16;
}

// [batch, out, in] of any shape to [batch, in, padded_features(out)], zeros at the end.
inline at::Tensor packed_weight(const at::Tensor& weight, std::int64_t batch, std::int64_t out,
                                std::int64_t in) {
  const std::int64_t padded = padded_features(out);
  at::Tensor packed;
  const auto on_cuda = [&](cuda::Stream) {
    packed = at::zeros({batch, in, padded}, weight.options());
    packed.narrow(2, 0, out).copy_(weight.reshape({batch, out, in}).transpose(1, 2));
  };
  const auto on_cpu = [&] {
    const at::Tensor dense = weight.contiguous();
    packed = at::empty({batch, in, padded}, weight.options());
    cpu::pack_linear(dense.const_data_ptr<float>(), packed.mutable_data_ptr<float>(), batch, out, in);
  };
  on_device(weight, on_cuda, on_cpu);
  return packed;
}

// Packed weights where the kernels can read four at once.
inline at::Tensor aligned(const at::Tensor& packed) {
  return reinterpret_cast<std::uintptr_t>(packed.const_data_ptr()) % 16 == 0 ? packed : packed.clone();
}

// `out` is written while the others, null where there are none, are read.
inline void refuse_overlap(const at::Tensor& out, std::initializer_list<const at::Tensor*> read) {
  for (const at::Tensor* tensor : read) {
    if (tensor != nullptr) at::assert_no_overlap(out, *tensor);
  }
}

// float32, uint8 and bool as they are, fp16 and bf16 as float32.
inline at::Tensor as_float_or_bytes(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat:
    case at::kByte:
    case at::kBool:
      return x;
    case at::kHalf:
    case at::kBFloat16:
      return x.to(at::kFloat);
    default:
      TORCH_CHECK_VALUE(false, "x: expected float32, float16, bfloat16, uint8 or bool, found ",
                        x.scalar_type());
  }
}

}  // namespace neurocuda
