// sum_pool2d, avg_pool2d: sums and means of windows of images [N, C, H, W], in float32; padding adds zeros.

#include "cpu/pool2d.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/avg_pool2d_backward.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <vector>

#include "ops/layout.h"
#include "ops/on_device.h"
#include "ops/operators.h"

namespace neurocuda {
namespace {

using at::Tensor;

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

constexpr const char* pool_name(bool mean) { return mean ? "avg_pool2d" : "sum_pool2d"; }

void check_pair(bool mean, const char* argument, at::IntArrayRef values, std::int64_t least) {
  TORCH_CHECK_VALUE(values.size() == 2 && std::min(values[0], values[1]) >= least, pool_name(mean),
                    ": expected ", argument, " of two numbers from ", least, ", found ", values);
}

bool channels_last(const Tensor& x) { return !x.is_contiguous() && x.is_contiguous(kChannelsLast); }

struct PoolArgs {
  bool mean;
  Tensor x;
  std::vector<std::int64_t> kernel, stride, padding;

  // The shape of the result, after checks.
  std::array<c10::SymInt, 4> shape() const {
    const char* op = pool_name(mean);
    check_pair(mean, "kernel", kernel, 1);
    check_pair(mean, "stride", stride, 1);
    check_pair(mean, "padding", padding, 0);
    TORCH_CHECK_VALUE(x.dim() == 4, op, ": expected x [N, C, H, W], found ", x.sym_sizes());
    TORCH_CHECK_VALUE(readable(x.scalar_type()), op,
                      ": expected x of float32, float16, bfloat16, uint8 or bool, found ",
                      name_of(x.scalar_type()));
    std::array<c10::SymInt, 4> shape{x.sym_size(0), x.sym_size(1)};
    for (int axis = 0; axis < 2; ++axis) {
      const auto width = x.sym_size(axis + 2) + 2 * padding[axis];
      TORCH_CHECK_VALUE(width >= kernel[axis], op, ": expected x of at least ", kernel[axis],
                        axis ? " columns" : " rows", " with padding, found ", width);
      shape[axis + 2] = (width - kernel[axis]) / stride[axis] + 1;
    }
    return shape;
  }

  PoolAxis axis(int at, const Tensor& out) const {
    return {x.size(at + 2), out.size(at + 2), kernel[at], stride[at], padding[at]};
  }
};

Tensor pool2d(bool mean, Boxed arguments) {
  const PoolArgs a{mean, arguments[0].toTensor(), arguments[1].toIntVector(), arguments[2].toIntVector(),
                   arguments[3].toIntVector()};
  const Tensor& x = a.x;
  const auto shape = a.shape();
  const bool last = channels_last(x);
  std::vector<c10::SymInt> strides;
  if (last) strides = {shape[1] * shape[2] * shape[3], 1, shape[1] * shape[3], shape[1]};
  const Tensor out = fresh(shape, strides, x.options().dtype(at::kFloat));
  if (out.is_meta() || out.numel() == 0) return out;
  const Tensor input = x.contiguous(last ? kChannelsLast : at::MemoryFormat::Contiguous);
  const Pool2d job{static_cast<const char*>(input.const_data_ptr()),
                   element_of(input.scalar_type()),
                   out.mutable_data_ptr<float>(),
                   last ? x.size(0) : x.size(0) * x.size(1),
                   last ? x.size(1) : 1,
                   a.axis(0, out),
                   a.axis(1, out),
                   mean ? static_cast<float>(a.kernel[0] * a.kernel[1]) : 1.0f};
  const auto on_cpu = [&] {
    const std::int64_t rows = job.planes * job.rows.out;
    const std::int64_t work = out.numel() / rows * a.kernel[0] * a.kernel[1];  // additions of a row
    constexpr std::int64_t kWorthAThread = 1 << 16;
    at::parallel_for(0, rows, std::max<std::int64_t>(1, kWorthAThread / work),
                     [&](std::int64_t first, std::int64_t last) { cpu::pool2d(job, first, last); });
  };
  on_device(out, [&](cuda::Stream stream) { cuda::pool2d(job, stream); }, on_cpu);
  return out;
}

std::vector<Tensor> backward_of_pool(bool mean, const Backward& pass) {
  const auto sizes = pass.saved[0].toSymIntVector();
  const auto kernel = pass.saved[1].toIntVector(), stride = pass.saved[2].toIntVector(),
             padding = pass.saved[3].toIntVector();
  Tensor gradient = pass.gradients[0];
  if (mean) gradient = gradient / static_cast<double>(kernel[0] * kernel[1]);
  auto padded = sizes;
  for (int axis = 0; axis < 2; ++axis) padded[axis + 2] = sizes[axis + 2] + 2 * padding[axis];
  const Tensor input = at::zeros({}, gradient.options()).expand_symint(padded);
  Tensor by_x = at::avg_pool2d_backward(gradient, input, kernel, stride, {0, 0}, false, true, 1);
  for (int axis = 0; axis < 2; ++axis) by_x = by_x.narrow_symint(axis + 2, padding[axis], sizes[axis + 2]);
  return {by_x};
}

}  // namespace

Tensor sum_pool2d(Boxed arguments) { return pool2d(false, arguments); }
Tensor avg_pool2d(Boxed arguments) { return pool2d(true, arguments); }

Formula sum_pool2d_formula() {
  return {4, true, [](const Backward& pass) { return backward_of_pool(false, pass); }};
}
Formula avg_pool2d_formula() {
  return {4, true, [](const Backward& pass) { return backward_of_pool(true, pass); }};
}

}  // namespace neurocuda
