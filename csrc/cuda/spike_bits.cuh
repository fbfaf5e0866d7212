// Converts the inputs of a convolution to bits, for event_tiles.cuh. spike_rows: a thread per input row
// stores one bit per element, padding included, and counts the spikes. window_masks: a thread per output
// position and chunk of terms gathers the bits of its window into a mask of 64 bits.
#pragma once

#include <cstdint>

#include "cuda/elements.cuh"
#include "cuda/launch_config.cuh"
#include "params/ordered_conv.h"

namespace neurocuda::cuda {

constexpr int kBitThreads = 256;

// Bits of the elements first .. first + 31 of a row, the first in the lowest bit; outside the row they are
// zero. An access loads `width` elements. Sets `not_one` if an element is neither 0 nor 1.
template <int width, class X>
__device__ __forceinline__ std::uint32_t spike_word(const X* row, int length, int first, bool& not_one) {
  constexpr int kAhead = 4;  // accesses in flight
  struct alignas(width * sizeof(X)) Elements {
    X at[width];
  };
  const int end = min(first + 32, length);
  std::uint32_t bits = 0;
  for (int begin = max(first, 0) / width * width; begin < end; begin += kAhead * width) {
    Elements loaded[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      loaded[n] = Elements{};
      if (begin + n * width < end) loaded[n] = *reinterpret_cast<const Elements*>(row + begin + n * width);
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      std::uint32_t spikes = 0;
#pragma unroll
      for (int k = 0; k < width; ++k) {
        const bool spike = loaded[n].at[k] != X(0);
        not_one = not_one || (spike && loaded[n].at[k] != X(1));
        spikes |= static_cast<std::uint32_t>(spike) << k;
      }
      const int shift = begin + n * width - first;  // above 31 `spikes` is zero
      bits |= shift >= 0 ? spikes << (shift & 31) : spikes >> -shift;
    }
  }
  return bits;
}

template <class X, int width>
__global__ void __launch_bounds__(kBitThreads) spike_rows(const OrderedConv params, const SpikeBits to) {
  NEUROCUDA_SHARED(unsigned, spikes);
  if (threadIdx.x == 0) spikes = 0;
  __syncthreads();
  const auto length = static_cast<int>(params.columns.in), pad = static_cast<int>(params.columns.pad);
  const std::int64_t rows = to.planes * to.rows, threads = std::int64_t{gridDim.x} * blockDim.x;
  unsigned count = 0;  // of this thread
  bool not_one = false;
  for (std::int64_t n = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < rows; n += threads) {
    const std::int64_t plane = n / to.rows, row = n - plane * to.rows - params.rows.pad;
    const bool inside = row >= 0 && row < params.rows.in;
    const X* from = static_cast<const X*>(params.x) + (plane * params.rows.in + row) * params.columns.in;
    for (int word = 0; word < to.words; ++word) {
      const std::uint32_t bits = inside ? spike_word<width>(from, length, 32 * word - pad, not_one) : 0;
      to.bits[n * to.words + word] = bits;
      count += static_cast<unsigned>(__popc(bits));
    }
  }
  if (count != 0) atomicAdd(&spikes, count);
  if (not_one) to.found->other = 1;  // all threads that write it write 1
  __syncthreads();
  if (threadIdx.x == 0 && spikes != 0) {
    atomicAdd(&to.found->spikes, static_cast<unsigned long long>(spikes));
  }
}

// Neighbouring threads have neighbouring windows; a row of blocks (blockIdx.y) has one chunk of one group.
// Does nothing if there are more than `max_spikes` spikes. fixed_height: the kernel's height if known at
// compile time, or 0.
template <int fixed_height>
__global__ void __launch_bounds__(kBitThreads)
    window_masks(const OrderedConv params, const SpikeBits to, const unsigned long long max_spikes) {
  if (to.found->spikes > max_spikes) return;
  const int height = fixed_height > 0 ? fixed_height : static_cast<int>(params.rows.kernel);
  const auto width = static_cast<int>(params.columns.kernel),
             channels = static_cast<int>(params.in / params.groups);
  const auto across = static_cast<unsigned>(params.columns.out),
             positions = static_cast<unsigned>(params.rows.out) * across;
  const int down = static_cast<int>(params.rows.dilation) * to.words,
            pitch = static_cast<int>(to.rows) * to.words;
  const std::uint32_t window = width == 32 ? ~0u : (1u << width) - 1;
  const auto group = static_cast<int>(blockIdx.y) / to.chunks;
  const int first = (static_cast<int>(blockIdx.y) - group * to.chunks) * to.lines, lines = channels * height;
  const int first_channel = first / height, count = min(to.lines, lines - first);
  const auto windows = static_cast<unsigned>(to.windows), threads = gridDim.x * blockDim.x;
  std::uint64_t* masks = to.masks + std::int64_t{blockIdx.y} * windows;
  for (unsigned n = blockIdx.x * blockDim.x + threadIdx.x; n < windows; n += threads) {
    const unsigned frame = n / positions, position = n - frame * positions, row = position / across;
    const unsigned left = (position - row * across) * static_cast<unsigned>(params.columns.stride);
    const std::int64_t plane = (std::int64_t{frame} * params.groups + group) * channels + first_channel;
    const std::uint32_t* from =
        to.bits + plane * pitch + row * params.rows.stride * to.words + static_cast<int>(left / 32);
    const int shift = static_cast<int>(left % 32);
    const bool two = shift + width > 32;
    const auto bits = [&](const std::uint32_t* at) {
      const std::uint64_t both = two ? std::uint64_t{at[1]} << 32 | at[0] : at[0];
      return static_cast<std::uint32_t>(both >> shift) & window;
    };
    std::uint64_t mask = 0;
    if (fixed_height > 0 && fixed_height * width <= 32) {  // complete channels, each in a word
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
void launch_spike_bits(const OrderedConv& params, const SpikeBits& to, unsigned long long max_spikes,
                       Stream stream) {
  const auto blocks = [](std::int64_t threads, std::int64_t each) {  // each: blocks per multiprocessor
    const std::int64_t most = std::max<std::int64_t>(1, each * device_limits().multiprocessors);
    return grid_of(std::min(most, (threads + kBitThreads - 1) / kBitThreads));
  };
  const unsigned for_rows = blocks(to.planes * to.rows, 8);  // not more, as every block adds to one counter
  const auto aligned = [&](std::size_t width) {
    return params.columns.in % static_cast<std::int64_t>(width) == 0 &&
           reinterpret_cast<std::uintptr_t>(params.x) % (width * sizeof(X)) == 0;
  };
  if (aligned(4)) {
    NEUROCUDA_LAUNCH((spike_rows<X, 4>), for_rows, kBitThreads, 0, stream, params, to);
  } else if (aligned(2)) {
    NEUROCUDA_LAUNCH((spike_rows<X, 2>), for_rows, kBitThreads, 0, stream, params, to);
  } else {
    NEUROCUDA_LAUNCH((spike_rows<X, 1>), for_rows, kBitThreads, 0, stream, params, to);
  }
  const auto chunks = static_cast<unsigned>(to.groups * to.chunks);
  const dim3 for_masks(blocks(to.windows, 64), chunks);
  if (params.rows.kernel == 3 && to.lines % 3 == 0) {
    NEUROCUDA_LAUNCH(window_masks<3>, for_masks, kBitThreads, 0, stream, params, to, max_spikes);
  } else {
    NEUROCUDA_LAUNCH(window_masks<0>, for_masks, kBitThreads, 0, stream, params, to, max_spikes);
  }
}

}  // namespace neurocuda::cuda
