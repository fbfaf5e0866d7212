// Sums over the neurons that share a value: a thread for each group, a launch for each level of groups.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "params/shared_sum.h"

namespace neurocuda::cuda {

// Some axes of an array, slowest first, strides in elements.
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
  Axes kept, summed;  // of the values
  Axes to;            // along `kept`, of the result
  std::int64_t elements, members, groups;
  double* partial;  // [groups, elements]
  float* result;    // where there is one group
};

template <class Value>
__global__ void shared_sum_kernel(const __grid_constant__ SumLevel level) {
  constexpr int kAtOnce = 8;  // loads on the way
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t group = thread / level.elements, element = thread % level.elements;
  if (group >= level.groups) return;
  std::int64_t at = 0, to = 0, rest = element;
  for (int axis = level.kept.count - 1; axis >= 0; --axis) {
    const std::int64_t place = rest % level.kept.sizes[axis];
    at += place * level.kept.strides[axis];
    to += place * level.to.strides[axis];
    rest /= level.kept.sizes[axis];
  }
  std::int64_t member = group * kSumGroup;
  const std::int64_t end = member + kSumGroup < level.members ? member + kSumGroup : level.members;
  const auto* values = static_cast<const Value*>(level.values) + at;
  double sum = 0.0;
  for (; member < end; member += kAtOnce) {
    Value found[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (member + k >= end) break;
      std::int64_t place = 0, left = member + k;
      for (int axis = level.summed.count - 1; axis > 0; --axis) {
        place += left % level.summed.sizes[axis] * level.summed.strides[axis];
        left /= level.summed.sizes[axis];
      }
      if (level.summed.count > 0) place += left * level.summed.strides[0];
      found[k] = values[place];
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (member + k >= end) break;
      sum += found[k];
    }
  }
  if (level.groups == 1) {
    level.result[to] = static_cast<float>(sum);
  } else {
    level.partial[group * level.elements + element] = sum;
  }
}

inline void launch_shared_sum(const SharedSumParams& call, Stream stream) {
  constexpr int kThreads = 128;
  if (call.elements == 0 || call.members == 0) return;
  SumLevel level{};
  std::int64_t stride = 1;
  for (int axis = 0; axis < call.axes; ++axis) stride *= call.sizes[axis];
  for (int axis = 0; axis < call.axes; ++axis) {
    stride /= call.sizes[axis];
    const bool summed = call.to_strides[axis] == 0;
    (summed ? level.summed : level.kept).add(call.sizes[axis], stride);
    if (!summed) level.to.add(call.sizes[axis], call.to_strides[axis]);
  }
  level.values = call.values;
  level.elements = call.elements;
  level.members = call.members;
  level.result = call.to;
  double *next = call.partial, *const after_first = next + call.elements * groups_of(call.members);
  for (bool first = true;; first = false) {
    level.groups = groups_of(level.members);
    level.partial = next;
    const auto blocks = static_cast<unsigned>((level.elements * level.groups + kThreads - 1) / kThreads);
    if (first) {
      NEUROCUDA_LAUNCH(shared_sum_kernel<float>, blocks, kThreads, 0, stream, level);
    } else {
      NEUROCUDA_LAUNCH(shared_sum_kernel<double>, blocks, kThreads, 0, stream, level);
    }
    if (level.groups == 1) return;
    // The sums of the groups are the values of the next level.
    next = level.partial == call.partial ? after_first : call.partial;
    level.values = level.partial;
    level.members = level.groups;
    level.summed = Axes();
    level.summed.add(level.members, level.elements);
    stride = level.elements;
    for (int axis = 0; axis < level.kept.count; ++axis) {
      stride /= level.kept.sizes[axis];
      level.kept.strides[axis] = stride;
    }
  }
}

}  // namespace neurocuda::cuda
