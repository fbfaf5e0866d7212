// The inputs of a convolution as bits: first whether there is a spike, one word for 32 neighbours of a row,
// zeros of the padding among them; then the windows of all output positions, the terms of a chunk in one
// mask. With them, how many spikes there are, and whether any is not one.
#pragma once

#include <cstdint>

#include "cuda/elements.cuh"
#include "cuda/limits.cuh"
#include "params/ordered_conv.h"

namespace neurocuda::cuda {

constexpr int kBitThreads = 256;

// Bits of the elements first .. first + 31 of a row, the first in the lowest; what is not there is zero.
// `each` elements come in one access.
template <int each, class X>
__device__ __forceinline__ std::uint32_t spike_word(const X* row, int length, int first, bool& other) {
  constexpr int kAhead = 4;  // accesses on their way
  struct alignas(each * sizeof(X)) Few {
    X at[each];
  };
  const int end = min(first + 32, length);
  std::uint32_t bits = 0;
  for (int begin = max(first, 0) / each * each; begin < end; begin += kAhead * each) {
    Few few[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      few[n] = Few{};
      if (begin + n * each < end) few[n] = *reinterpret_cast<const Few*>(row + begin + n * each);
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      std::uint32_t spikes = 0;
#pragma unroll
      for (int k = 0; k < each; ++k) {
        const bool spike = few[n].at[k] != X(0);
        other = other || (spike && few[n].at[k] != X(1));
        spikes |= static_cast<std::uint32_t>(spike) << k;
      }
      const int place = begin + n * each - first;  // above 31, spikes are none
      bits |= place >= 0 ? spikes << (place & 31) : spikes >> -place;
    }
  }
  return bits;
}

template <class X, int each>
__global__ void __launch_bounds__(kBitThreads) spike_rows(const OrderedConv call, const SpikeBits to) {
  NEUROCUDA_SHARED(unsigned, spikes);
  if (threadIdx.x == 0) spikes = 0;
  __syncthreads();
  const auto length = static_cast<int>(call.columns.in), pad = static_cast<int>(call.columns.pad);
  const std::int64_t rows = to.planes * to.rows, step = std::int64_t{gridDim.x} * blockDim.x;
  unsigned own = 0;
  bool other = false;
  for (std::int64_t n = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < rows; n += step) {
    const std::int64_t plane = n / to.rows, row = n - plane * to.rows - call.rows.pad;
    const bool there = row >= 0 && row < call.rows.in;
    const X* from = static_cast<const X*>(call.x) + (plane * call.rows.in + row) * call.columns.in;
    for (int word = 0; word < to.words; ++word) {
      const std::uint32_t bits = there ? spike_word<each>(from, length, 32 * word - pad, other) : 0;
      to.bits[n * to.words + word] = bits;
      own += static_cast<unsigned>(__popc(bits));
    }
  }
  if (own != 0) atomicAdd(&spikes, own);
  if (other) to.found->other = 1;  // whoever writes it writes the same
  __syncthreads();
  if (threadIdx.x == 0 && spikes != 0) {
    atomicAdd(&to.found->spikes, static_cast<unsigned long long>(spikes));
  }
}

// A thread for a mask; neighbours have neighbouring windows, a row of blocks the same chunk. Nothing, where
// there are more than `few` spikes. fixed_height: of windows, where the compiler knows it.
template <int fixed_height>
__global__ void __launch_bounds__(kBitThreads)
    window_masks(const OrderedConv call, const SpikeBits to, const unsigned long long few) {
  if (to.found->spikes > few) return;
  const int height = fixed_height > 0 ? fixed_height : static_cast<int>(call.rows.kernel);
  const auto width = static_cast<int>(call.columns.kernel),
             channels = static_cast<int>(call.in / call.groups);
  const auto across = static_cast<unsigned>(call.columns.out),
             positions = static_cast<unsigned>(call.rows.out) * across;
  const int down = static_cast<int>(call.rows.dilation) * to.words,
            pitch = static_cast<int>(to.rows) * to.words;
  const std::uint32_t window = width == 32 ? ~0u : (1u << width) - 1;
  const auto group = static_cast<int>(blockIdx.y) / to.chunks;
  const int first = (static_cast<int>(blockIdx.y) - group * to.chunks) * to.lines, lines = channels * height;
  const int first_channel = first / height, count = min(to.lines, lines - first);
  const auto windows = static_cast<unsigned>(to.windows), step = gridDim.x * blockDim.x;
  std::uint64_t* masks = to.masks + std::int64_t{blockIdx.y} * windows;
  for (unsigned n = blockIdx.x * blockDim.x + threadIdx.x; n < windows; n += step) {
    const unsigned frame = n / positions, position = n - frame * positions, row = position / across;
    const unsigned left = (position - row * across) * static_cast<unsigned>(call.columns.stride);
    const std::int64_t plane = (std::int64_t{frame} * call.groups + group) * channels + first_channel;
    const std::uint32_t* from =
        to.bits + plane * pitch + row * call.rows.stride * to.words + static_cast<int>(left / 32);
    const int shift = static_cast<int>(left % 32);
    const bool two = shift + width > 32;
    const auto bits = [&](const std::uint32_t* at) {
      const std::uint64_t both = two ? std::uint64_t{at[1]} << 32 | at[0] : at[0];
      return static_cast<std::uint32_t>(both >> shift) & window;
    };
    std::uint64_t mask = 0;
    if (fixed_height > 0 && fixed_height * width <= 32) {  // whole channels, each in a word
      for (int line = 0; line < count; line += height, from += pitch) {
        std::uint32_t channel = 0;
#pragma unroll
        for (int k = 0; k < fixed_height; ++k) channel |= bits(from + k * down) << k * width;
        mask |= std::uint64_t{channel} << line * width;
      }
    } else {
      int kernel_row = first - first_channel * height;
      for (int line = 0; line < count; ++line) {
        mask |= std::uint64_t{bits(from + kernel_row * down)} << line * width;
        if (++kernel_row == height) {
          kernel_row = 0;
          from += pitch;
        }
      }
    }
    masks[n] = mask;
  }
}

template <class X>
void launch_spike_bits(const OrderedConv& call, const SpikeBits& to, unsigned long long few, Stream stream) {
  const auto blocks = [](std::int64_t threads, std::int64_t each) {  // each: of a multiprocessor
    const std::int64_t most = std::max<std::int64_t>(1, each * device_limits().multiprocessors);
    return grid_of(std::min(most, (threads + kBitThreads - 1) / kBitThreads));
  };
  const unsigned for_rows = blocks(to.planes * to.rows, 8);  // few, as each adds to one number
  const auto come_in = [&](std::size_t each) {
    return call.columns.in % static_cast<std::int64_t>(each) == 0 &&
           reinterpret_cast<std::uintptr_t>(call.x) % (each * sizeof(X)) == 0;
  };
  if (come_in(4)) {
    NEUROCUDA_LAUNCH((spike_rows<X, 4>), for_rows, kBitThreads, 0, stream, call, to);
  } else if (come_in(2)) {
    NEUROCUDA_LAUNCH((spike_rows<X, 2>), for_rows, kBitThreads, 0, stream, call, to);
  } else {
    NEUROCUDA_LAUNCH((spike_rows<X, 1>), for_rows, kBitThreads, 0, stream, call, to);
  }
  const auto chunks = static_cast<unsigned>(to.groups * to.chunks);
  const dim3 for_masks(blocks(to.windows, 64), chunks);
  if (call.rows.kernel == 3 && to.lines % 3 == 0) {
    NEUROCUDA_LAUNCH(window_masks<3>, for_masks, kBitThreads, 0, stream, call, to, few);
  } else {
    NEUROCUDA_LAUNCH(window_masks<0>, for_masks, kBitThreads, 0, stream, call, to, few);
  }
}

}  // namespace neurocuda::cuda
