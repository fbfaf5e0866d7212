// Signals in device memory: where the neurons of a step lie, and the sum of branches over time.
#pragma once

#include <algorithm>

#include "cuda/elements.cuh"
#include "cuda/neuron_traits.h"
#include "params/neuron.h"

namespace neurocuda::cuda {

// Bytes from the start of a step to a neuron.
__device__ __forceinline__ std::int64_t offset_of(const Signal& signal, std::int64_t neuron) {
  if (signal.dense) return neuron * size_of(signal.type);
  std::int64_t offset = 0;
  if (neuron >> 31 == 0) {  // divisions of 32 bits take a quarter of the time
    auto left = static_cast<std::uint32_t>(neuron);
#pragma unroll 1
    for (int axis = signal.axes - 1; axis > 0; --axis) {
      const auto size = static_cast<std::uint32_t>(min(signal.sizes[axis], std::int64_t{0x7fffffff}));
      const std::uint32_t before = left / size;
      offset += (left - before * size) * signal.strides[axis];
      left = before;
    }
    return offset + left * signal.strides[0];
  }
#pragma unroll 1
  for (int axis = signal.axes - 1; axis > 0; --axis) {
    const std::int64_t before = neuron / signal.sizes[axis];
    offset += (neuron - before * signal.sizes[axis]) * signal.strides[axis];
    neuron = before;
  }
  return offset + neuron * signal.strides[0];
}

// Where a neuron lies in a step of each of some branches. The places in rows with gaps take long to compute,
// and too many registers to keep: a thread keeps its own in shared memory, of `bytes` for a block.
class BranchRows {
 public:
  __device__ __forceinline__ BranchRows(const Signal* branches, int count, std::int64_t neuron,
                                        std::int64_t* places)
      : neuron_(neuron), places_(places + threadIdx.x) {
    for (int branch = 0; branch < count; ++branch) {
      if (!branches[branch].dense) places_[branch * blockDim.x] = offset_of(branches[branch], neuron);
    }
  }

  __device__ __forceinline__ const char* operator()(const Signal& branch, int number) const {
    const std::int64_t dense = neuron_ * size_of(branch.type);
    return branch.data + (branch.dense ? dense : places_[number * blockDim.x]);
  }

  static std::size_t bytes(const Signal* branches, int count, int threads) {
    for (int branch = 0; branch < count; ++branch) {
      if (!branches[branch].dense) return sizeof(std::int64_t) * count * threads;
    }
    return 0;
  }

 private:
  std::int64_t neuron_;
  std::int64_t* places_;
};

// The state of neighbouring neurons before the first step; `place` is where it is updated.
template <int width>
__device__ __forceinline__ void load_state(const StateBefore& before, std::int64_t neuron, const char* place,
                                           float (&to)[width]) {
  if (before.one) {
#pragma unroll
    for (int k = 0; k < width; ++k) to[k] = *before.values;
  } else {
    load_floats<width>(
        before.values == nullptr ? place : reinterpret_cast<const char*>(before.values + neuron), to);
  }
}

// Where a thread is in the sequence of all branches of all steps.
struct Place {
  int branch;
  std::int64_t step;
};

// Loads the next `stages` of that sequence, or those that are left, of branches whose elements all take
// `bytes`; 0: any.
template <int width, int stages, int bytes, class Row>
__device__ __forceinline__ void load_batch(const Signal* branches, int count, std::int64_t last,
                                           const Row& row, Place& next, Raw<width> (&to)[stages]) {
#pragma unroll
  for (int stage = 0; stage < stages; ++stage) {
    if (next.step < last) {
      const Signal& signal = branches[next.branch];
      const char* from = row(signal, next.branch) + next.step * signal.time_stride;
      if constexpr (bytes == 0) {
        load<width>(signal.type, from, to[stage]);
      } else {
        load_bytes<bytes * width>(from, to[stage]);
      }
      if (++next.branch == count) {
        next.branch = 0;
        ++next.step;
      }
    }
  }
}

// Calls visit(raw[from]), visit(raw[from + 1]), ... until one says false, and says so. No loop: nvcc does not
// unroll large ones, whatever it is asked, and keeps what they go through out of registers.
template <int from, int count, int width, class Visit>
__device__ __forceinline__ bool for_each(const Raw<width> (&raw)[count], const Visit& visit) {
  if constexpr (from == count) {
    return true;
  } else {
    return visit(raw[from]) && for_each<from + 1>(raw, visit);
  }
}

// Calls use(step, sum) for steps first .. last - 1 with the sum of the branches, left fold in the order
// given, of `width` neighbouring neurons. The loads of all branches and steps make one sequence, of which
// `stages` are issued before the first of them is used: not one by one ahead, as a thread waits for loads by
// a few counters, and so for the latest that it shares one with. row(branch, number) is where the neurons lie
// in its first step.
//
// `use` may write in the place of a branch what the same thread has read there.
template <int width, int stages, class Row, class Use>
__device__ __forceinline__ void sum_over_time(const Signal* branches, int count, std::int64_t first,
                                              std::int64_t last, const Row& row, const Use& use) {
  std::int64_t bytes = size_of(branches[0].type);
  for (int branch = 1; branch < count; ++branch) {
    if (size_of(branches[branch].type) != bytes) bytes = 0;
  }
  Raw<width> raw[stages];
  Place next{0, first}, now{0, first};
  float sum[width];
  for (;;) {
    if (width <= 4 && bytes == 4) {
      if constexpr (width <= 4) load_batch<width, stages, 4>(branches, count, last, row, next, raw);
    } else if (width != 4 && bytes == 2) {
      if constexpr (width != 4) load_batch<width, stages, 2>(branches, count, last, row, next, raw);
    } else {
      load_batch<width, stages, 0>(branches, count, last, row, next, raw);
    }
    const auto use_next = [&](const Raw<width>& from) {
      take<width>(branches[now.branch].type, from, now.branch > 0, sum);
      if (++now.branch < count) return true;
      now.branch = 0;
      use(now.step, sum);
      return ++now.step < last;
    };
    if (!for_each<0>(raw, use_next)) return;
  }
}

// Whether threads may access the neurons of a signal `width` at a time.
inline bool allows(const Signal& signal, int width, std::int64_t steps) {
  if (signal.data == nullptr) return true;
  const std::int64_t bytes = std::min<std::int64_t>(kAccessBytes, width * size_of(signal.type));
  return signal.dense && reinterpret_cast<std::uintptr_t>(signal.data) % bytes == 0 &&
         (steps <= 1 || signal.time_stride % bytes == 0);
}

// The neurons that a thread may take of all branches at a time; 1 where memory allows no more.
inline int width_of(const Signal* branches, int count, std::int64_t steps) {
  std::int64_t largest = 1;
  for (int branch = 0; branch < count; ++branch) {
    largest = std::max(largest, size_of(branches[branch].type));
  }
  const int width = width_for(largest);
  for (int branch = 0; branch < count; ++branch) {
    if (!allows(branches[branch], width, steps)) return 1;
  }
  return width;
}

// Bytes of an element of the branches, on the average.
inline std::int64_t mean_size(const Signal* branches, int count) {
  std::int64_t bytes = 0;
  for (int branch = 0; branch < count; ++branch) bytes += size_of(branches[branch].type);
  return (bytes + count - 1) / count;
}

}  // namespace neurocuda::cuda
