// Tiles of a convolution from the masks of spike_bits.cuh; a block per tile, as in ordered_sum.cuh. For each
// chunk of terms a few threads per row list the nonzero terms in shared memory, weights are copied to shared
// memory asynchronously, and the threads of a row add the listed weights. Inputs themselves are read only if
// some are not one.
#pragma once

#include <cstdint>

#include "cuda/async_copy.cuh"
#include "cuda/ordered_sum.cuh"

namespace neurocuda::cuda {

constexpr int kGroup = 4;  // list entries whose weights are loaded before the first is added

template <class Shape>
struct EventMemory {
  static constexpr int kPitch = kEventTerms + kGroup;  // of lists: rows start in different banks
  union {
    // Weights of the current chunk and of the next; the last row is zero.
    Vec4 w[2][kEventTerms + 1][Shape::kColumnThreads];
    float sums[Shape::kRows][Shape::kColumns + 1];
  };
  alignas(kGroup) std::uint8_t lists[Shape::kRows][kPitch];  // ascending terms, padded with kEventTerms
  std::uint8_t groups[Shape::kRows];                         // of kGroup entries per list
  int offsets[kEventTerms];                                  // from a window's first input to that of a term
  std::int64_t first[Shape::kRows];  // index into x of a window's first input, which may be in the padding
};

// Lists the bits of a row's mask: each of the neighbouring threads of the row lists kBits of them, and the
// last one pads the list to complete groups.
template <class Shape>
__device__ __forceinline__ void list_events(std::uint64_t mask, EventMemory<Shape>& memory) {
  constexpr int kThreads = kTileThreads / Shape::kRows, kBits = kEventTerms / kThreads;
  const int row = static_cast<int>(threadIdx.x) / kThreads, part = static_cast<int>(threadIdx.x) % kThreads;
  const int begin = part * kBits;
  std::uint8_t* to = memory.lists[row];
  int count = __popcll(mask & ((std::uint64_t{1} << begin) - 1));
  std::uint64_t left = mask >> begin;
  if constexpr (kBits < 64) left &= (std::uint64_t{1} << kBits) - 1;
  for (; left != 0; left &= left - 1, ++count) {
    to[count] = static_cast<std::uint8_t>(begin + __ffsll(static_cast<long long>(left)) - 1);
  }
  if (part != kThreads - 1) return;
  const int groups = (count + kGroup - 1) / kGroup;
  for (; count < groups * kGroup; ++count) to[count] = kEventTerms;
  memory.groups[row] = static_cast<std::uint8_t>(groups);
}

// A thread's part of the copies of weights: four columns (Vec4) of several terms per chunk.
template <class Shape>
struct WeightCopies {
  const float* from;  // in the first chunk; null outside the matrix
  std::int64_t pitch;
  int term, column;

  template <class Layer>
  __device__ WeightCopies(const Layer& layer, std::int64_t matrix, std::int64_t first_column)
      : from(nullptr),
        pitch(layer.padded),
        term(static_cast<int>(threadIdx.x) / Shape::kColumnThreads),
        column(static_cast<int>(threadIdx.x) % Shape::kColumnThreads) {
    const std::int64_t layer_column = first_column + 4 * column;
    if (layer_column < layer.padded)
      from = layer.prepacked + (matrix * layer.terms + term) * layer.padded + layer_column;
  }

  __device__ __forceinline__ void start(int first_term, int terms, const float* readable,
                                        Vec4 (*to)[Shape::kColumnThreads]) const {
#pragma unroll
    for (int n = 0; n < kEventTerms; n += Shape::kRowThreads) {
      if (term + n >= kEventTerms) break;  // more threads than there are terms
      const bool valid = from != nullptr && first_term + term + n < terms;
      start_copy(reinterpret_cast<unsigned char*>(&to[term + n][column]),
                 valid ? from + (first_term + n) * pitch : readable, valid);
    }
    end_group();
  }
};

// Adds the listed terms of a chunk to a thread's sums. `ones`: all spikes are one, so products are the
// weights. The padding of a list adds zeros, which change no sum, as no sum is -0.
template <bool ones, class Layer, class Shape>
__device__ __forceinline__ void add_events(const Layer& layer, const EventMemory<Shape>& memory, int current,
                                           int row, int column, float (&sum)[Shape::kEach][4]) {
#pragma unroll
  for (int r = 0; r < Shape::kEach; ++r) {
    const int tile_row = row + r * Shape::kRowThreads, groups = memory.groups[tile_row];
    for (int group = 0; group < groups; ++group) {
      const auto listed = *reinterpret_cast<const std::uint32_t*>(memory.lists[tile_row] + kGroup * group);
      Vec4 w[kGroup];
      float x[kGroup];
#pragma unroll
      for (int n = 0; n < kGroup; ++n) {
        const std::uint32_t term = listed >> 8 * n & 0xffu;
        w[n] = memory.w[current][term][column];
        if constexpr (!ones) {
          x[n] = 0.0f;
          if (term < kEventTerms)
            x[n] = static_cast<float>(layer.x[memory.first[tile_row] + memory.offsets[term]]);
        }
      }
#pragma unroll
      for (int n = 0; n < kGroup; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c)
          sum[r][c] = add(sum[r][c], ones ? w[n].at[c] : multiply(w[n].at[c], x[n]));
      }
    }
  }
}

template <bool ones, class Shape, class Layer>
__device__ void event_tiles(const Layer& layer, EventMemory<Shape>& memory) {
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / Shape::kColumnThreads, column = thread % Shape::kColumnThreads;
  const std::int64_t row_tiles = (layer.rows + Shape::kRows - 1) / Shape::kRows;
  const std::int64_t column_tiles = (layer.columns + Shape::kColumns - 1) / Shape::kColumns;
  const std::int64_t tiles = layer.matrices * row_tiles * column_tiles;
  const int width = layer.across.kernel, height = layer.down.kernel, chunks = layer.spikes.chunks;
  const int terms = static_cast<int>(layer.terms), chunk_terms = layer.spikes.lines * width;
  for (std::int64_t number = blockIdx.x; number < tiles; number += gridDim.x) {
    const std::int64_t first_column = number % column_tiles * Shape::kColumns;
    const std::int64_t first_row = number / column_tiles % row_tiles * Shape::kRows;
    const std::int64_t matrix = number / column_tiles / row_tiles;
    const std::int64_t list_row = first_row + thread / (kTileThreads / Shape::kRows);
    const std::uint64_t* masks = layer.spikes.masks + matrix * chunks * layer.rows + list_row;
    const WeightCopies<Shape> weights(layer, matrix, first_column);
    if (!ones && thread < Shape::kRows && first_row + thread < layer.rows) {
      memory.first[thread] = layer.first_input(matrix, first_row + thread);
    }
    if (thread < 2 * Shape::kColumnThreads)
      memory.w[thread / Shape::kColumnThreads][kEventTerms][thread % Shape::kColumnThreads] = Vec4{};
    float sum[Shape::kEach][4] = {};
    weights.start(0, terms, layer.prepacked, memory.w[0]);
    std::uint64_t mask = list_row < layer.rows ? masks[0] : 0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      list_events<Shape>(mask, memory);
      if (!ones && thread < kEventTerms) {
        const int line = chunk * layer.spikes.lines + thread / width;
        memory.offsets[thread] = layer.offset(line / height, line % height, thread % width);
      }
      const bool more = chunk + 1 < chunks;
      if (more) {  // in flight while the current chunk is summed
        weights.start((chunk + 1) * chunk_terms, terms, layer.prepacked, memory.w[(chunk + 1) % 2]);
        mask = list_row < layer.rows ? masks[(chunk + 1) * layer.rows] : 0;
        wait_for_groups<1>();
      } else {
        wait_for_groups<0>();
      }
      __syncthreads();
      add_events<ones>(layer, memory, chunk % 2, row, column, sum);
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < Shape::kEach; ++r) {
#pragma unroll
      for (int c = 0; c < 4; ++c) memory.sums[row + r * Shape::kRowThreads][4 * column + c] = sum[r][c];
    }
    __syncthreads();
    store_tile<Shape>(layer, memory.sums, matrix, first_row, first_column);
    __syncthreads();
  }
}

}  // namespace neurocuda::cuda
