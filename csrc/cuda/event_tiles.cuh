// Tiles of a convolution from the bits of its spikes: for each row of a tile, the spikes among some terms are
// listed once, by a few threads, and those that own its columns add one listed weight after the other. Inputs
// are read as bits alone, unless some of them are not one.
#pragma once

#include <cstdint>

#include "cuda/async_copy.cuh"
#include "cuda/ordered_sum.cuh"

namespace neurocuda::cuda {

constexpr int kGroup = 4;  // of a list: weights that are asked for before the first is added

template <class Shape>
struct EventMemory {
  static constexpr int kPitch = kEventTerms + kGroup;  // of a list: rows begin in different banks
  union {
    Four w[2][kEventTerms + 1][Shape::kColumnThreads];  // of this chunk and of the next; the last are zeros
    float sums[Shape::kRows][Shape::kColumns + 1];
  };
  alignas(kGroup) std::uint8_t lists[Shape::kRows][kPitch];  // terms in ascending order, then kEventTerms
  std::uint8_t groups[Shape::kRows];                         // of a list
  int offsets[kEventTerms];                                  // from a window's first input to that of a term
  std::int64_t first[Shape::kRows];  // of x: a window's first input, which may lie in the padding
};

// Lists the bits of a mask: the threads of a row, which are neighbours, some of them each, and one what
// completes the last group.
template <class Shape>
__device__ __forceinline__ void list_events(std::uint64_t mask, EventMemory<Shape>& memory) {
  constexpr int kThreads = kTileThreads / Shape::kRows, kBits = kEventTerms / kThreads;
  const int row = static_cast<int>(threadIdx.x) / kThreads, own = static_cast<int>(threadIdx.x) % kThreads;
  const int begin = own * kBits;
  std::uint8_t* to = memory.lists[row];
  int place = __popcll(mask & ((std::uint64_t{1} << begin) - 1));
  std::uint64_t left = mask >> begin;
  if constexpr (kBits < 64) left &= (std::uint64_t{1} << kBits) - 1;
  for (; left != 0; left &= left - 1, ++place) {
    to[place] = static_cast<std::uint8_t>(begin + __ffsll(static_cast<long long>(left)) - 1);
  }
  if (own != kThreads - 1) return;
  const int groups = (place + kGroup - 1) / kGroup;
  for (; place < groups * kGroup; ++place) to[place] = kEventTerms;
  memory.groups[row] = static_cast<std::uint8_t>(groups);
}

// The weights of chunks that a thread copies: one column of several terms.
template <class Shape>
struct WeightCopies {
  const float* from;  // of the first chunk; null where there is no such column
  std::int64_t pitch;
  int term, column;

  template <class Layer>
  __device__ WeightCopies(const Layer& layer, std::int64_t matrix, std::int64_t first_column)
      : from(nullptr),
        pitch(layer.padded),
        term(static_cast<int>(threadIdx.x) / Shape::kColumnThreads),
        column(static_cast<int>(threadIdx.x) % Shape::kColumnThreads) {
    const std::int64_t own = first_column + 4 * column;
    if (own < layer.padded) from = layer.packed + (matrix * layer.terms + term) * layer.padded + own;
  }

  __device__ __forceinline__ void start(int first_term, int terms, const float* anything,
                                        Four (*to)[Shape::kColumnThreads]) const {
#pragma unroll
    for (int n = 0; n < kEventTerms; n += Shape::kRowThreads) {
      if (term + n >= kEventTerms) break;  // more threads than there are terms
      const bool there = from != nullptr && first_term + term + n < terms;
      start_copy(reinterpret_cast<unsigned char*>(&to[term + n][column]),
                 there ? from + (first_term + n) * pitch : anything, there);
    }
    end_group();
  }
};

// Adds what is listed to the sums of a thread. `ones`: spikes are one, and their products the weights. A list
// ends with zeros, which change no sum, as none is -0.
template <bool ones, class Layer, class Shape>
__device__ __forceinline__ void add_events(const Layer& layer, const EventMemory<Shape>& memory, int now,
                                           int row, int column, float (&sum)[Shape::kEach][4]) {
#pragma unroll
  for (int r = 0; r < Shape::kEach; ++r) {
    const int own = row + r * Shape::kRowThreads, groups = memory.groups[own];
    for (int group = 0; group < groups; ++group) {
      const auto listed = *reinterpret_cast<const std::uint32_t*>(memory.lists[own] + kGroup * group);
      Four w[kGroup];
      float x[kGroup];
#pragma unroll
      for (int n = 0; n < kGroup; ++n) {
        const std::uint32_t term = listed >> 8 * n & 0xffu;
        w[n] = memory.w[now][term][column];
        if constexpr (!ones) {
          x[n] = 0.0f;
          if (term < kEventTerms)
            x[n] = static_cast<float>(layer.x[memory.first[own] + memory.offsets[term]]);
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
    const std::int64_t own_row = first_row + thread / (kTileThreads / Shape::kRows);
    const std::uint64_t* masks = layer.spikes.masks + matrix * chunks * layer.rows + own_row;
    const WeightCopies<Shape> weights(layer, matrix, first_column);
    if (!ones && thread < Shape::kRows && first_row + thread < layer.rows) {
      memory.first[thread] = layer.first_input(matrix, first_row + thread);
    }
    if (thread < 2 * Shape::kColumnThreads)
      memory.w[thread / Shape::kColumnThreads][kEventTerms][thread % Shape::kColumnThreads] = Four{};
    float sum[Shape::kEach][4] = {};
    weights.start(0, terms, layer.packed, memory.w[0]);
    std::uint64_t mask = own_row < layer.rows ? masks[0] : 0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      list_events<Shape>(mask, memory);
      if (!ones && thread < kEventTerms) {
        const int line = chunk * layer.spikes.lines + thread / width;
        memory.offsets[thread] = layer.offset(line / height, line % height, thread % width);
      }
      const bool more = chunk + 1 < chunks;
      if (more) {  // on its way while this chunk is summed
        weights.start((chunk + 1) * chunk_terms, terms, layer.packed, memory.w[(chunk + 1) % 2]);
        mask = own_row < layer.rows ? masks[(chunk + 1) * layer.rows] : 0;
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
