#include "ops/layout.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>

#include "ops/memory.h"

namespace neurocuda {
namespace {

// Whether a tensor [T, B, ...] fills its memory without gaps, one step after the other, or one sample after
// the other, each over all steps.
bool streams(const at::Tensor& tensor) {
  if (!tensor.is_non_overlapping_and_dense()) return false;
  const auto steps = tensor.sym_size(0);
  if (steps <= 1 || tensor.sym_stride(0) * steps == tensor.sym_numel()) return true;
  if (tensor.dim() < 2) return false;
  const auto of_sample = tensor.sym_stride(0) * steps;
  return tensor.sym_stride(1) == of_sample && of_sample * tensor.sym_size(1) == tensor.sym_numel();
}

}  // namespace

bool dense_floats(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous();
}

char* place_of(const at::Tensor& tensor) {
  return static_cast<char*>(const_cast<void*>(tensor.const_data_ptr()));
}

Order order_of(at::IntArrayRef sizes, at::IntArrayRef strides) {
  Order order;
  for (int axis = 0; axis < static_cast<int>(sizes.size()); ++axis) {
    order.neurons *= sizes[axis];
    if (sizes[axis] == 1) continue;
    TORCH_CHECK_VALUE(order.axes < kMaxAxes, "a signal has more than ", kMaxAxes, " axes");
    int place = order.axes++;
    for (; !strides.empty() && place > 0 && strides[order.axis[place - 1]] < strides[axis]; --place) {
      order.axis[place] = order.axis[place - 1];
      order.size[place] = order.size[place - 1];
    }
    order.axis[place] = axis;
    order.size[place] = sizes[axis];
  }
  return order;
}

Signal signal_of(const at::Tensor& tensor, bool over_time, const Order& order) {
  Signal signal;
  const std::int64_t size = tensor.element_size();
  const auto strides = tensor.strides();
  signal.data = static_cast<char*>(const_cast<void*>(tensor.const_data_ptr()));
  signal.type = element_of(tensor.scalar_type());
  signal.time_stride = over_time && tensor.size(0) > 1 ? strides[0] * size : 0;
  for (int place = 0; place < order.axes; ++place) {
    const std::int64_t stride = strides[order.axis[place] + (over_time ? 1 : 0)] * size;
    const int before = signal.axes - 1;
    if (before >= 0 && signal.strides[before] == stride * order.size[place]) {
      signal.sizes[before] *= order.size[place];
      signal.strides[before] = stride;
    } else {
      signal.sizes[signal.axes] = order.size[place];
      signal.strides[signal.axes++] = stride;
    }
  }
  signal.dense = signal.axes == 0 || (signal.axes == 1 && signal.strides[0] == size);
  return signal;
}

Coefficient coefficient_of(const at::Tensor& tensor, std::int64_t axes, const Order& order,
                           at::Tensor& copy) {
  if (tensor.numel() == 1) return {tensor.const_data_ptr<float>(), 1, 1};
  // The first and the last axis along which it varies: outside of these, values repeat.
  const std::int64_t missing = axes - tensor.dim();
  const auto varies = [&](int place) {
    return order.axis[place] >= missing && tensor.size(order.axis[place] - missing) > 1;
  };
  int first = 0, last = order.axes - 1;
  while (first < last && !varies(first)) ++first;
  while (last > first && !varies(last)) --last;
  Coefficient coefficient;
  for (int place = last + 1; place < order.axes; ++place) coefficient.inner *= order.size[place];
  bool in_place = true;
  std::int64_t sizes[kMaxAxes], strides[kMaxAxes];
  for (int place = last; place >= first; --place) {
    sizes[place] = order.size[place];
    strides[place] = varies(place) ? tensor.stride(order.axis[place] - missing) : 0;
    in_place = in_place && strides[place] == coefficient.count;
    coefficient.count *= order.size[place];
  }
  if (in_place) {
    coefficient.values = tensor.const_data_ptr<float>();
  } else {
    const std::size_t span = last - first + 1;
    copy = tensor.as_strided({sizes + first, span}, {strides + first, span}).contiguous();
    coefficient.values = copy.const_data_ptr<float>();
  }
  return coefficient;
}

std::string name_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "float32";
    case at::kHalf:
      return "float16";
    case at::kByte:
      return "uint8";
    case at::kDouble:
      return "float64";
    case at::kLong:
      return "int64";
    default: {  // Int, Char, BFloat16 ...
      std::string name = c10::toString(type);
      std::transform(name.begin(), name.end(), name.begin(),
                     [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
      return name;
    }
  }
}

Element element_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return Element::kFloat32;
    case at::kHalf:
      return Element::kFloat16;
    case at::kBFloat16:
      return Element::kBFloat16;
    case at::kByte:
      return Element::kUInt8;
    default:
      return Element::kBool;
  }
}

bool readable(at::ScalarType type) {
  return type == at::kFloat || type == at::kHalf || type == at::kBFloat16 || type == at::kByte ||
         type == at::kBool;
}

at::Tensor fresh(c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides, const at::TensorOptions& options) {
  const auto known_sizes = c10::asIntArrayRefSlowOpt(sizes),
             known_strides = c10::asIntArrayRefSlowOpt(strides);
  if (options.device().is_cpu() && known_sizes && known_strides)
    return pooled(*known_sizes, *known_strides, c10::typeMetaToScalarType(options.dtype()));
  return strides.empty() ? at::empty_symint(sizes, options)
                         : at::empty_strided_symint(sizes, strides, options);
}

at::Tensor nothing(const at::TensorOptions& options) {
  if (!options.device().is_cpu()) return at::empty({0}, options);
  return pooled({0}, {}, c10::typeMetaToScalarType(options.dtype()));
}

void copy_state(const at::Tensor& from, const at::Tensor& to) {
  if (from.numel() == 0) return;                        // there may be no memory at all
  constexpr std::size_t kSmall = std::size_t{1} << 14;  // bytes; a dispatched copy costs more
  const bool alike = from.is_cpu() && to.is_cpu() && from.scalar_type() == to.scalar_type() &&
                     from.nbytes() <= kSmall && from.is_contiguous() && to.is_contiguous();
  if (alike) {
    std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), from.nbytes());
  } else {
    to.copy_(from);
  }
}

c10::SymIntArrayRef output_strides(at::TensorList branches) {
  if (branches[0].is_contiguous()) return {};
  const auto found = std::find_if(branches.begin(), branches.end(), streams);
  return found == branches.end() ? c10::SymIntArrayRef() : found->sym_strides();
}

std::vector<c10::SymInt> state_strides(c10::SymIntArrayRef output, const c10::SymInt& steps) {
  std::vector<c10::SymInt> strides;
  for (std::size_t axis = 1; axis < output.size(); ++axis) {
    const bool over_time = axis == 1 && steps > 1 && output[axis] == output[0] * steps;
    strides.push_back(over_time ? output[0] : output[axis]);
  }
  return strides;
}

std::vector<c10::SymInt> packed_shape(c10::SymIntArrayRef sizes) {
  c10::SymInt neurons = 1;
  for (std::size_t axis = 1; axis < sizes.size(); ++axis) neurons = neurons * sizes[axis];
  return {sizes[0], (neurons + 7) / 8};
}

void check_device(const char* op, const char* name, const at::Tensor& tensor, c10::Device device) {
  TORCH_CHECK_VALUE(tensor.device() == device, op, ": expected ", name, " on ", device, ", found it on ",
                    tensor.device());
}

void check_branches(const char* op, at::TensorList branches) {
  TORCH_CHECK_VALUE(!branches.empty() && branches.size() <= kMaxBranches, op, ": expected 1 to ",
                    kMaxBranches, " branches, found ", branches.size());
  TORCH_CHECK_VALUE(branches[0].dim() >= 1, op, ": expected branches [T, B, *shape], found a scalar");
  for (const at::Tensor& branch : branches) {
    TORCH_CHECK_VALUE(branch.device() == branches[0].device(), op, ": expected branches on ",
                      branches[0].device(), ", found one on ", branch.device());
    TORCH_CHECK_VALUE(readable(branch.scalar_type()), op,
                      ": expected branches of float32, float16, bfloat16, uint8 or bool, found ",
                      name_of(branch.scalar_type()));
    TORCH_CHECK_VALUE(branch.sym_sizes() == branches[0].sym_sizes(), op, ": expected branches of one shape ",
                      branches[0].sym_sizes(), ", found ", branch.sym_sizes());
  }
}

}  // namespace neurocuda
