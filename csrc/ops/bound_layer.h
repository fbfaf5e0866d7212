// Layers made ready for frames whose sizes do not change: what the arguments say was looked at once.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>

#include "ops/memory.h"

namespace neurocuda {

// Other values of x, of the same sizes and type, contiguous, to the result of the layer.
using BoundLayer = std::function<at::Tensor(const at::Tensor&)>;

// Null where an argument would be copied at each call, or is not on the CPU.
BoundLayer bound_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                        const std::optional<at::Tensor>& packed, c10::string_view route);
BoundLayer bound_conv(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                      at::IntArrayRef stride, at::IntArrayRef pads, at::IntArrayRef dilation,
                      std::int64_t groups, const std::optional<at::Tensor>& packed, c10::string_view route);

// What the kernels of a layer are asked, and the tensors that it points into.
template <class Layer>
struct Job {
  Layer layer;
  at::Tensor input, weights, offset, scratch;
};

// A job for x and `out` as one for other values, in fresh memory, by `run`.
template <class Layer>
BoundLayer bound_of(Job<Layer> job, const at::Tensor& x, const std::optional<at::Tensor>& bias,
                    const std::optional<at::Tensor>& packed, const at::Tensor& out,
                    void (*run)(const Layer&)) {
  if (!x.is_cpu() || !job.input.is_same(x) || !packed || !job.weights.is_same(*packed)) return nullptr;
  if (bias && job.offset.const_data_ptr() != bias->const_data_ptr()) return nullptr;
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
