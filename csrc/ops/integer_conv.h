// Convolutions of bytes on tensor cores.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace neurocuda {

// float32 [frames, out, rows, columns], the channels last in memory: the sums of x [frames, channels, rows,
// columns] times weight [out, terms], as integers, times the scale of each output channel, and then the
// bias. x is uint8, its channels last in memory and a multiple of 16; weight is int8, its terms by kernel
// row, kernel column and channel, then zeros up to a multiple of 64, and rows of zeros up to a multiple of
// `integer_tile(out)`. kernel, stride, padding (before the first) and dilation are of rows and columns, size
// that of the result. For devices of compute capability 8.0 and above.
at::Tensor integer_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& scale,
                        const std::optional<at::Tensor>& bias, const std::vector<std::int64_t>& size,
                        const std::vector<std::int64_t>& kernel, const std::vector<std::int64_t>& stride,
                        const std::vector<std::int64_t>& padding, const std::vector<std::int64_t>& dilation);

}  // namespace neurocuda
