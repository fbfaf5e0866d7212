// Tensors as the kernels see them: signals in one common order of neurons, coefficients by neuron.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "params/coefficients.h"
#include "params/signal.h"

namespace neurocuda {

// The axes of one step of a signal, [B, *shape], from the slowest in memory to the fastest, and their sizes;
// none has size one.
struct Order {
  int axes = 0;
  std::int64_t neurons = 1;
  int axis[kMaxAxes];
  std::int64_t size[kMaxAxes];
};

// The order in which `strides` go through memory, or, without them, that of the axes themselves.
Order order_of(at::IntArrayRef sizes, at::IntArrayRef strides = {});

// Whether it is float32, contiguous and on the CPU.
bool dense_floats(const at::Tensor& tensor);

// Where the memory of a tensor begins.
char* place_of(const at::Tensor& tensor);

// A tensor [T, B, *shape] (over time) or [B, *shape].
Signal signal_of(const at::Tensor& tensor, bool over_time, const Order& order);

// float32 that broadcasts against [B, *shape]. What cannot be read in place is copied, and kept alive by
// `copy`.
Coefficient coefficient_of(const at::Tensor& tensor, std::int64_t axes, const Order& order, at::Tensor& copy);

// The name of a type as Python says it.
std::string name_of(at::ScalarType type);

// Whether the kernels read elements of this type.
bool readable(at::ScalarType type);

// The type of a readable tensor, as the kernels name it.
Element element_of(at::ScalarType type);

// A tensor without values, contiguous without strides; on the CPU its memory comes from a pool. Works for
// Meta tensors too.
at::Tensor fresh(c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides, const at::TensorOptions& options);

// An empty tensor, in place of an absent result.
at::Tensor nothing(const at::TensorOptions& options);

// `to` holds the values of `from` after it, of the same shape and type.
void copy_state(const at::Tensor& from, const at::Tensor& to);

// The strides of an output for branches [T, B, *shape]: those of the first that fills its memory step after
// step, or sample after sample; none, for a contiguous output, if there is no such branch.
c10::SymIntArrayRef output_strides(at::TensorList branches);

// Those of the state [B, *shape] beside an output of these strides, if it has any, and steps.
std::vector<c10::SymInt> state_strides(c10::SymIntArrayRef output, const c10::SymInt& steps);

// Of the bits of spikes [T, B, *shape]: [T, bytes for B * shape].
std::vector<c10::SymInt> packed_shape(c10::SymIntArrayRef sizes);

// Raises ValueError unless the tensor is on that device.
void check_device(const char* op, const char* name, const at::Tensor& tensor, c10::Device device);

// Raises ValueError unless there are 1 to 8 branches of one shape [T, B, *shape], on one device, of readable
// types.
void check_branches(const char* op, at::TensorList branches);

}  // namespace neurocuda
