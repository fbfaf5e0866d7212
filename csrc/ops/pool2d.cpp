// sum_pool2d, avg_pool2d: sums and means of windows of images [N, C, H, W], in float32; padding adds zeros.

#include "cpu/pool2d.h"

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <vector>

#include "ops/layout.h"
#include "ops/on_device.h"

namespace neurocuda {
namespace {

using at::Tensor;
using Numbers = at::IntArrayRef;

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

constexpr const char* name(bool mean) { return mean ? "avg_pool2d" : "sum_pool2d"; }

void check_numbers(bool mean, const char* argument, Numbers values, std::int64_t least) {
  TORCH_CHECK_VALUE(values.size() == 2 && std::min(values[0], values[1]) >= least, name(mean), ": expected ",
                    argument, " of two numbers from ", least, ", found ", values);
}

// The shape of the result, after checks.
std::array<c10::SymInt, 4> output_shape(bool mean, const Tensor& x, Numbers kernel, Numbers stride,
                                        Numbers padding) {
  check_numbers(mean, "kernel", kernel, 1);
  check_numbers(mean, "stride", stride, 1);
  check_numbers(mean, "padding", padding, 0);
  TORCH_CHECK_VALUE(x.dim() == 4, name(mean), ": expected x [N, C, H, W], found ", x.sym_sizes());
  TORCH_CHECK_VALUE(readable(x.scalar_type()), name(mean),
                    ": expected x of float32, float16, bfloat16, uint8 or bool, found ",
                    name_of(x.scalar_type()));
  std::array<c10::SymInt, 4> shape{x.sym_size(0), x.sym_size(1)};
  for (int axis = 0; axis < 2; ++axis) {
    const auto width = x.sym_size(axis + 2) + 2 * padding[axis];
    TORCH_CHECK_VALUE(width >= kernel[axis], name(mean), ": expected x of at least ", kernel[axis],
                      axis ? " columns" : " rows", " with padding, found ", width);
    shape[axis + 2] = (width - kernel[axis]) / stride[axis] + 1;
  }
  return shape;
}

bool channels_last(const Tensor& x) { return !x.is_contiguous() && x.is_contiguous(kChannelsLast); }

template <bool mean>
void pool_out(const Tensor& x, Numbers kernel, Numbers stride, Numbers padding, const Tensor& out) {
  const auto shape = output_shape(mean, x, kernel, stride, padding);
  TORCH_CHECK_VALUE(out.scalar_type() == at::kFloat && out.device() == x.device() &&
                        out.sym_sizes() == c10::SymIntArrayRef(shape),
                    name(mean), ": expected out in float32 on ", x.device(), " of shape ",
                    c10::SymIntArrayRef(shape), ", found ", name_of(out.scalar_type()), " on ", out.device(),
                    " of shape ", out.sym_sizes());
  TORCH_CHECK_VALUE(out.is_contiguous() || out.is_contiguous(kChannelsLast), name(mean),
                    ": expected out contiguous or with channels last, found strides ", out.sym_strides());
  if (out.is_meta()) return;
  at::assert_no_overlap(out, x);
  if (out.numel() == 0) return;
  // Where the memory of `out` can be read both ways, x decides.
  const bool last = out.is_contiguous(kChannelsLast) && (channels_last(x) || !out.is_contiguous());
  const Tensor input = x.contiguous(last ? kChannelsLast : at::MemoryFormat::Contiguous);
  const auto axis = [&](int at) {
    return PoolAxis{x.size(at + 2), out.size(at + 2), kernel[at], stride[at], padding[at]};
  };
  const Pool2d job{static_cast<const char*>(input.const_data_ptr()),
                   element_of(input.scalar_type()),
                   out.mutable_data_ptr<float>(),
                   last ? x.size(0) : x.size(0) * x.size(1),
                   last ? x.size(1) : 1,
                   axis(0),
                   axis(1),
                   mean ? static_cast<float>(kernel[0] * kernel[1]) : 1.0f};
  const auto on_cpu = [&] {
    const std::int64_t rows = job.planes * job.rows.out;
    const std::int64_t work = out.numel() / rows * kernel[0] * kernel[1];  // additions of a row
    constexpr std::int64_t kWorthAThread = 1 << 16;
    at::parallel_for(0, rows, std::max<std::int64_t>(1, kWorthAThread / work),
                     [&](std::int64_t first, std::int64_t last) { cpu::pool2d(job, first, last); });
  };
  on_device(out, [&](cuda::Stream stream) { cuda::pool2d(job, stream); }, on_cpu);
  mark_written(out);
}

template <bool mean>
Tensor pool(const Tensor& x, Numbers kernel, Numbers stride, Numbers padding) {
  const auto shape = output_shape(mean, x, kernel, stride, padding);
  std::vector<c10::SymInt> strides;
  if (channels_last(x)) strides = {shape[1] * shape[2] * shape[3], 1, shape[1] * shape[3], shape[1]};
  const Tensor out = fresh(shape, strides, x.options().dtype(at::kFloat));
  pool_out<mean>(x, kernel, stride, padding, out);
  return out;
}

template <bool mean>
Tensor below_autograd(const Tensor& x, Numbers kernel, Numbers stride, Numbers padding) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow(mean ? "neurocuda::avg_pool2d" : "neurocuda::sum_pool2d", "")
                             .typed<decltype(pool<mean>)>();
  at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(x, kernel, stride, padding);
}

template <bool mean>
class Gradient : public torch::autograd::Function<Gradient<mean>> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x,
                        const std::vector<std::int64_t>& kernel, const std::vector<std::int64_t>& stride,
                        const std::vector<std::int64_t>& padding) {
    context->saved_data["sizes"] = x.sym_sizes();
    context->saved_data["type"] = x.scalar_type();
    context->saved_data["kernel"] = kernel;
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    return below_autograd<mean>(x, kernel, stride, padding);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto sizes = context->saved_data["sizes"].toSymIntVector();
    const auto kernel = context->saved_data["kernel"].toIntVector(),
               stride = context->saved_data["stride"].toIntVector(),
               padding = context->saved_data["padding"].toIntVector();
    Tensor gradient = gradients[0];
    if (mean) gradient = gradient / static_cast<double>(kernel[0] * kernel[1]);
    auto padded = sizes;
    for (int axis = 0; axis < 2; ++axis) padded[axis + 2] = sizes[axis + 2] + 2 * padding[axis];
    // Of the input only the shape is used.
    const Tensor input = at::zeros({}, gradient.options()).expand_symint(padded);
    Tensor by_x = at::avg_pool2d_backward(gradient, input, kernel, stride, {0, 0}, false, true, 1);
    for (int axis = 0; axis < 2; ++axis) by_x = by_x.narrow_symint(axis + 2, padding[axis], sizes[axis + 2]);
    return {by_x.to(context->saved_data["type"].toScalarType()), Tensor(), Tensor(), Tensor()};
  }
};

template <bool mean>
Tensor with_gradient(const Tensor& x, Numbers kernel, Numbers stride, Numbers padding) {
  return Gradient<mean>::apply(x, kernel.vec(), stride.vec(), padding.vec());
}

TORCH_LIBRARY_FRAGMENT(neurocuda, m) {
  m.def("sum_pool2d(Tensor x, int[2] kernel, int[2] stride, int[2] padding) -> Tensor");
  m.def("avg_pool2d(Tensor x, int[2] kernel, int[2] stride, int[2] padding) -> Tensor");
  m.def("sum_pool2d.out(Tensor x, int[2] kernel, int[2] stride, int[2] padding, *, Tensor(a!) out) -> ()");
  m.def("avg_pool2d.out(Tensor x, int[2] kernel, int[2] stride, int[2] padding, *, Tensor(a!) out) -> ()");
}

void implement(torch::Library& m) {
  m.impl("sum_pool2d", pool<false>);
  m.impl("avg_pool2d", pool<true>);
  m.impl("sum_pool2d.out", pool_out<false>);
  m.impl("avg_pool2d.out", pool_out<true>);
}

NEUROCUDA_IMPLEMENT(implement)
TORCH_LIBRARY_IMPL(neurocuda, Meta, m) { implement(m); }

TORCH_LIBRARY_IMPL(neurocuda, Autograd, m) {
  m.impl("sum_pool2d", with_gradient<false>);
  m.impl("avg_pool2d", with_gradient<true>);
}

}  // namespace
}  // namespace neurocuda
