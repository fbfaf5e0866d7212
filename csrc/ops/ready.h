// Layers made ready for frames whose sizes do not change: what the arguments say was looked at once.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include <cstdint>
#include <functional>
#include <optional>

namespace neurocuda {

// Other values of x, of the same sizes and type, contiguous, to the result of the layer.
using ReadyLayer = std::function<at::Tensor(const at::Tensor&)>;

// Null where an argument would be copied at each call, or is not on the CPU.
ReadyLayer ready_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                        const std::optional<at::Tensor>& packed, c10::string_view route);
ReadyLayer ready_conv(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                      at::IntArrayRef stride, at::IntArrayRef pads, at::IntArrayRef dilation,
                      std::int64_t groups, const std::optional<at::Tensor>& packed, c10::string_view route);

}  // namespace neurocuda
