// Sums over the neurons that share a coefficient, in float64: a thread sums a group of kSumGroup values in
// order; each launch sums one level of the tree of groups. Stores one partial sum per group and element.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "params/shared_sum.h"

namespace neurocuda::cuda {

// Axes of an array, slowest first, strides in elements.
struct Axes {
  int count = 0;
  std::int64_t sizes[kMaxAxes], strides[kMaxAxes];

  void add(std::int64_t size, std::int64_t stride) {
    sizes[count] = size;
    strides[count++] = stride;
  }
};

struct SumLevel {
  const void* values;
  Axes kept, summed;  // of `values`
  Axes to;            // of the result: the strides of the `kept` axes
  std::int64_t elements, members, groups;
  double* partial;  // [groups, elements]
  float* result;    // written if there is one group
};

template <class Value>
__global__ void shared_sum_kernel(const __grid_constant__ SumLevel level) {
  constexpr int kInFlight = 8;  // loads
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t group = thread / level.elements, element = thread % level.elements;
  if (group >= level.groups) return;
  std::int64_t at = 0, to = 0, rest = element;
  for (int axis = level.kept.count - 1; axis >= 0; --axis) {
    const std::int64_t index = rest % level.kept.sizes[axis];
    at += index * level.kept.strides[axis];
    to += index * level.to.strides[axis];
    rest /= level.kept.sizes[axis];
  }
  std::int64_t member = group * kSumGroup;
  const std::int64_t end = member + kSumGroup < level.members ? member + kSumGroup : level.members;
  const auto* values = static_cast<const Value*>(level.values) + at;
  double sum = 0.0;
  for (; member < end; member += kInFlight) {
    Value loaded[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (member + k >= end) break;
      std::int64_t offset = 0, left = member + k;
      for (int axis = level.summed.count - 1; axis > 0; --axis) {
        offset += left % level.summed.sizes[axis] * level.summed.strides[axis];
        left /= level.summed.sizes[axis];
      }
      if (level.summed.count > 0) offset += left * level.summed.strides[0];
      loaded[k] = values[offset];
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (member + k >= end) break;
      sum += loaded[k];
    }
  }
  if (level.groups == 1) {
    level.result[to] = static_cast<float>(sum);
  } else {
    level.partial[group * level.elements + element] = sum;
  }
}

}  // namespace neurocuda::cuda
