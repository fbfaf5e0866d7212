// What the ordered layers share: their arguments, prepacked weights, and calls bound to fixed sizes.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include <cstdint>

#include "ops/bound_layer.h"
#include "ops/boxed.h"
#include "params/ordered_linear.h"

namespace neurocuda {

// Raises ValueError unless it names one.
Route route_named(c10::string_view name);

// The matrices of a layer, [batch, out, in].
template <class Int>
struct Matrices {
  Int batch, out, in;
};

// A weight of any shape as [batch, in, padded_features(out)], zeros at the end. Works for Meta tensors too.
at::Tensor prepack(const at::Tensor& weight, const Matrices<c10::SymInt>& shape);

// `prepacked` where the kernels can read four values at once, or, if undefined, the weight itself prepacked.
// Raises ValueError unless it is what `prepack` returns.
at::Tensor prepacked_weight(const char* op, const at::Tensor& prepacked, const at::Tensor& weight,
                            const Matrices<std::int64_t>& shape);

// A bias broadcast to the outputs of the matrices, contiguous; undefined if it is.
at::Tensor expanded_bias(const char* op, const at::Tensor& bias, const at::Tensor& weight,
                         at::IntArrayRef shape);

// float32, uint8 and bool as they are, fp16 and bf16 as float32; contiguous.
at::Tensor as_float_or_bytes(const at::Tensor& x);

// The layer that a kernel runs, and the tensors that it points into.
template <class Layer>
struct Job {
  Layer layer;
  at::Tensor input, weights, offset, scratch;
};

// A job for x and `out` as one for other values, in fresh memory, by `run`.
template <class Layer>
BoundLayer bound_of(Job<Layer> job, const at::Tensor& x, const at::Tensor& bias, const at::Tensor& prepacked,
                    const at::Tensor& out, void (*run)(const Layer&)) {
  if (!x.is_cpu() || !job.input.is_same(x) || !job.weights.is_same(prepacked)) return nullptr;
  if (bias.defined() && job.offset.const_data_ptr() != bias.const_data_ptr()) return nullptr;
  job.input.reset();
  return [job = std::move(job), run, shape = out.sizes().vec()](const at::Tensor& values) {
    at::Tensor result = pooled(shape, {}, at::kFloat);
    Layer layer = job.layer;
    layer.x = values.const_data_ptr();
    layer.y = result.template mutable_data_ptr<float>();
    run(layer);
    return result;
  };
}

}  // namespace neurocuda
