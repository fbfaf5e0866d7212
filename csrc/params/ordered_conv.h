// Convolutions summed in ascending order of input channel, kernel row, kernel column: one product, one sum at
// a time, bias last.
#pragma once

#include <cstdint>

#include "params/ordered_linear.h"

namespace neurocuda {

// One axis of space: sizes in elements, `pad` zeros before the first.
struct ConvAxis {
  std::int64_t in, out, kernel, stride, pad, dilation;

  // The elements that windows see, zeros of the padding among them, from the first of the first window.
  std::int64_t seen() const { return (out - 1) * stride + (kernel - 1) * dilation + 1; }
};

struct OrderedConv {
  const void* x;           // [frames, in, rows.in, columns.in], float or bytes
  bool bytes;              // x is uint8 or bool
  const float* prepacked;  // [groups, in / groups, *kernel, padded_features(out / groups)]
  const float* bias;       // [out] or null
  float* y;                // [frames, out, rows.out, columns.out]
  std::int64_t frames, groups, in, out;
  ConvAxis rows, columns;
  Route route;
  void* scratch;  // spike_bits_of(params).bytes() on a GPU, its first kSpikesFound bytes zero
};

// What was found among the inputs of a convolution on a GPU.
struct SpikesFound {
  unsigned long long spikes;  // numbers that are not zero
  unsigned other;             // whether one of them is not one
};

constexpr std::int64_t kSpikesFound = 16;  // bytes
constexpr int kEventTerms = 64;            // of a chunk, as many as a mask has bits

// The inputs of a convolution on a GPU as bits, and the windows on them as masks of some terms each.
struct SpikeBits {
  std::int64_t rows = 0, windows = 0, planes = 0, groups = 0;
  int words = 0;   // of 32 neighbours of a row
  int lines = 0;   // of a chunk: kernel rows of input channels; whole channels, where one fits
  int chunks = 0;  // 0: bits are not used
  SpikesFound* found = nullptr;
  std::uint64_t* masks = nullptr;  // [groups, chunks, windows], the first term in the lowest bit
  std::uint32_t* bits = nullptr;   // [planes, rows, words] as far as windows see, the first in the lowest bit

  NEUROCUDA_HOST_DEVICE std::int64_t mask_count() const { return groups * chunks * windows; }
  std::int64_t bytes() const {
    if (chunks == 0) return 0;
    return kSpikesFound + mask_count() * std::int64_t{sizeof *masks} +
           planes * rows * words * std::int64_t{sizeof *bits};
  }
};

// Used for many windows of many terms, with padding at most as wide as a window.
inline SpikeBits spike_bits_of(const OrderedConv& params) {
  const std::int64_t height = params.rows.kernel, width = params.columns.kernel,
                     channels = params.in / params.groups;
  const auto modest = [](const ConvAxis& axis) {
    return axis.seen() <= axis.in + 2 * ((axis.kernel - 1) * axis.dilation + 1);
  };
  SpikeBits spikes;
  spikes.rows = params.rows.seen();
  spikes.windows = params.frames * params.rows.out * params.columns.out;
  spikes.planes = params.frames * params.in;
  spikes.groups = params.groups;
  const std::int64_t words = (params.columns.seen() + 31) / 32;
  const bool neighbours = width == 1 || (params.columns.dilation == 1 && width <= 32);
  const bool many = spikes.windows > 32 && spikes.windows < 1ll << 31 && channels * height * width >= 32;
  const bool small =
      modest(params.rows) && modest(params.columns) && params.in * spikes.rows * words < 1ll << 31;
  if (params.route == Route::kDense || !neighbours || !many || !small) return spikes;
  spikes.words = static_cast<int>(words);
  spikes.lines = static_cast<int>(kEventTerms / width);
  if (spikes.lines >= height) spikes.lines -= static_cast<int>(spikes.lines % height);
  const std::int64_t chunks = (channels * height + spikes.lines - 1) / spikes.lines;
  if (params.groups * chunks >= 1 << 16) return spikes;  // more than a launch takes
  spikes.chunks = static_cast<int>(chunks);
  if (params.scratch != nullptr) {
    auto* scratch = static_cast<char*>(params.scratch);
    spikes.found = reinterpret_cast<SpikesFound*>(scratch);
    spikes.masks = reinterpret_cast<std::uint64_t*>(scratch + kSpikesFound);
    spikes.bits = reinterpret_cast<std::uint32_t*>(spikes.masks + spikes.mask_count());
  }
  return spikes;
}

}  // namespace neurocuda
