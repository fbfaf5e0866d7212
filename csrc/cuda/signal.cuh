// Signals in device memory: addresses of neurons, and the sum of branches over time.
#pragma once

#include <algorithm>

#include "cuda/elements.cuh"
#include "cuda/neuron_traits.h"
#include "params/neuron.h"

namespace neurocuda::cuda {

// The offset of a neuron in bytes from the start of its time step.
__device__ __forceinline__ std::int64_t offset_of(const Signal& signal, std::int64_t neuron) {
  if (signal.dense) return neuron * size_of(signal.type);
  std::int64_t offset = 0;
  if (neuron >> 31 == 0) {  // a 32-bit division takes a quarter of the time
    auto left = static_cast<std::uint32_t>(neuron);
#pragma unroll 1
    for (int axis = signal.axes - 1; axis > 0; --axis) {
      const auto size = static_cast<std::uint32_t>(min(signal.sizes[axis], std::int64_t{0x7fffffff}));
      const std::uint32_t quotient = left / size;
      offset += (left - quotient * size) * signal.strides[axis];
      left = quotient;
    }
    return offset + left * signal.strides[0];
  }
#pragma unroll 1
  for (int axis = signal.axes - 1; axis > 0; --axis) {
    const std::int64_t quotient = neuron / signal.sizes[axis];
    offset += (neuron - quotient * signal.sizes[axis]) * signal.strides[axis];
    neuron = quotient;
  }
  return offset + neuron * signal.strides[0];
}

// The address of neuron n in the first time step; null if the signal has no data.
__device__ __forceinline__ char* address_of(const Signal& signal, std::int64_t n) {
  return signal.data == nullptr ? nullptr : signal.data + offset_of(signal, n);
}

// The address of a thread's neuron in the first time step of each branch. Offsets in branches that are not
// dense are slow to compute and would take too many registers: a thread caches its own in shared memory,
// `bytes` per block.
class BranchRows {
 public:
  __device__ __forceinline__ BranchRows(const Signal* branches, int count, std::int64_t neuron,
                                        std::int64_t* offsets)
      : neuron_(neuron), offsets_(offsets + threadIdx.x) {
    for (int branch = 0; branch < count; ++branch) {
      if (!branches[branch].dense) offsets_[branch * blockDim.x] = offset_of(branches[branch], neuron);
    }
  }

  __device__ __forceinline__ const char* operator()(const Signal& branch, int number) const {
    const std::int64_t dense = neuron_ * size_of(branch.type);
    return branch.data + (branch.dense ? dense : offsets_[number * blockDim.x]);
  }

  static std::size_t bytes(const Signal* branches, int count, int threads) {
    for (int branch = 0; branch < count; ++branch) {
      if (!branches[branch].dense) return sizeof(std::int64_t) * count * threads;
    }
    return 0;
  }

 private:
  std::int64_t neuron_;
  std::int64_t* offsets_;
};

// The state of `width` neighbouring neurons before the first step; `updated` is the address where it is
// updated.
template <int width>
__device__ __forceinline__ void load_state(const StateBefore& before, std::int64_t neuron,
                                           const char* updated, float (&to)[width]) {
  if (before.one) {
#pragma unroll
    for (int k = 0; k < width; ++k) to[k] = *before.values;
  } else {
    load_floats<width>(
        before.values == nullptr ? updated : reinterpret_cast<const char*>(before.values + neuron), to);
  }
}

// A position in the sequence of all branches of all time steps.
struct Position {
  int branch;
  std::int64_t step;
};

// Loads the next `stages` elements of that sequence, as far as there are. All branches have elements of
// `bytes` bytes; 0: the sizes differ.
template <int width, int stages, int bytes, class Row>
__device__ __forceinline__ void load_batch(const Signal* branches, int count, std::int64_t last,
                                           const Row& row, Position& next, Raw<width> (&to)[stages]) {
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

// Calls visit(raw[from]), visit(raw[from + 1]), ... until one returns false; returns whether none did.
// Recursion, because nvcc does not unroll large loops, even with a pragma, and then does not keep `raw` in
// registers.
template <int from, int count, int width, class Visit>
__device__ __forceinline__ bool for_each(const Raw<width> (&raw)[count], const Visit& visit) {
  if constexpr (from == count) {
    return true;
  } else {
    return visit(raw[from]) && for_each<from + 1>(raw, visit);
  }
}

// Calls use(step, sum) for time steps first .. last - 1 with the sum of the branches, a left fold in their
// order, of `width` neighbouring neurons. row(branch, number) is the address of the neurons in the first step
// of a branch.
//
// The loads of all branches and steps form one sequence, issued in batches of `stages`. Batches rather than a
// rolling prefetch: a thread waits for loads by a few scoreboard counters, and so for the latest load that
// shares one.
//
// `use` may overwrite elements of a branch that the same thread has read.
template <int width, int stages, class Row, class Use>
__device__ __forceinline__ void sum_over_time(const Signal* branches, int count, std::int64_t first,
                                              std::int64_t last, const Row& row, const Use& use) {
  std::int64_t bytes = size_of(branches[0].type);
  for (int branch = 1; branch < count; ++branch) {
    if (size_of(branches[branch].type) != bytes) bytes = 0;
  }
  Raw<width> raw[stages];
  Position next{0, first}, current{0, first};
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
      convert<width>(branches[current.branch].type, from, current.branch > 0, sum);
      if (++current.branch < count) return true;
      current.branch = 0;
      use(current.step, sum);
      return ++current.step < last;
    };
    if (!for_each<0>(raw, use_next)) return;
  }
}

// Whether layout and alignment allow accesses to `width` neighbouring neurons at a time.
inline bool allows(const Signal& signal, int width, std::int64_t steps) {
  if (signal.data == nullptr) return true;
  const std::int64_t bytes = std::min<std::int64_t>(kAccessBytes, width * size_of(signal.type));
  return signal.dense && reinterpret_cast<std::uintptr_t>(signal.data) % bytes == 0 &&
         (steps <= 1 || signal.time_stride % bytes == 0);
}

// The widest access, in neurons, that all branches allow.
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

// The mean size of the branches' elements in bytes, rounded up.
inline std::int64_t mean_size(const Signal* branches, int count) {
  std::int64_t bytes = 0;
  for (int branch = 0; branch < count; ++branch) bytes += size_of(branches[branch].type);
  return (bytes + count - 1) / count;
}

}  // namespace neurocuda::cuda
