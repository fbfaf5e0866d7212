// Sums of products in ascending order of their terms, for matrix products and convolutions:
//
//   y[row, column] = sum over terms of x(row, term) * weight[term, column], from zero, then the bias
//
// Every product and every sum is rounded separately. Products with zero change no sum and may be skipped. The
// template parameter Layer maps an operator to rows, columns and terms:
//
//   Value                           element type of x: float or bytes
//   kRowsFirst                      whether neighbouring rows, not columns, are neighbours in y
//   rows, columns, terms, matrices  sizes; products with different matrices are independent
//   padded, prepacked, bias            prepacked [matrices, terms, padded], bias [matrices, columns] or null
//   route                           all terms, only nonzero ones, or what is faster by the kernel's count
//   Tile<Shape>                     reads x(row, term) of a tile, kTerms terms at a time
//   Memory<Shape>                   shared memory of a tile, for sum_tiles<Shape>(layer, memory)
//   value(matrix, row, term)        x(row, term)
//   y_row(matrix, row)              the address of a row of y, whose columns are column_stride apart
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/launch_config.cuh"
#include "cuda/spike_list.cuh"
#include "neuron_update.h"
#include "params/ordered_linear.h"

namespace neurocuda::cuda {

// ---- Many rows: a block per tile of rows x columns, whose sums stay in registers while terms stream through
// shared memory in chunks of kTerms. A mask per row has a bit per nonzero term of the chunk; each warp adds
// all terms or only those, whichever its masks make faster.

constexpr int kTileThreads = 256;
constexpr int kTerms = 32;  // per chunk: the bits of a mask

// A thread has four neighbouring columns of `rows_each` rows.
template <int rows_each, int column_threads>
struct TileShape {
  static constexpr int kEach = rows_each;
  static constexpr int kColumnThreads = column_threads;
  static constexpr int kColumns = 4 * column_threads;
  static constexpr int kRowThreads = kTileThreads / column_threads;
  static constexpr int kRows = rows_each * kRowThreads;
  static constexpr int kLoads = kRows * kTerms / kTileThreads;  // of x, per thread and chunk
  static constexpr int kWeightLoads = (column_threads * kTerms + kTileThreads - 1) / kTileThreads;
};

struct alignas(16) Vec4 {
  float at[4];
};

template <class Shape>
struct TileMemory {
  struct Chunk {
    Vec4 w[kTerms][Shape::kColumnThreads];
    float x[kTerms][Shape::kRows + 1];
  };
  union {
    Chunk chunk;
    float sums[Shape::kRows][Shape::kColumns + 1];
  };
  unsigned masks[2][Shape::kRows];  // of the current chunk and of the next
};

// Loads a thread's part of the weights of a chunk.
template <class Shape, class Layer>
__device__ __forceinline__ void load_weights(const Layer& layer, std::int64_t matrix, std::int64_t first_term,
                                             std::int64_t first_column, Vec4 (&w)[Shape::kWeightLoads]) {
#pragma unroll
  for (int n = 0; n < Shape::kWeightLoads; ++n) {
    const int at = static_cast<int>(threadIdx.x) + n * kTileThreads;
    const std::int64_t term = first_term + at / Shape::kColumnThreads;
    const std::int64_t column = first_column + 4 * (at % Shape::kColumnThreads);
    w[n] = Vec4{};
    if (at < kTerms * Shape::kColumnThreads && term < layer.terms && column < layer.padded) {
      const float* from = layer.prepacked + (matrix * layer.terms + term) * layer.padded + column;
      w[n] = *reinterpret_cast<const Vec4*>(from);
    }
  }
}

// Adds the first `terms` terms of a chunk to the sums of a thread.
template <class Shape>
__device__ __forceinline__ void add_chunk(const typename TileMemory<Shape>::Chunk& chunk,
                                          const unsigned* masks, int terms, Route route, int row, int column,
                                          float (&sum)[Shape::kEach][4]) {
  unsigned mask[Shape::kEach];
  int spikes = 0;
#pragma unroll
  for (int r = 0; r < Shape::kEach; ++r) {
    mask[r] = masks[row + r * Shape::kRowThreads];
    spikes += __popc(mask[r]);
  }
  // Adding all terms costs about nine instructions per thread and term, as four rows share a weight. Adding
  // only nonzero terms costs fifteen per nonzero term, and the warp waits for the thread with the most.
  const bool many = __ballot_sync(kFullWarp, spikes * 8 > Shape::kEach * terms * 3) != 0;
  if (route == Route::kDense || (route == Route::kMeasured && many)) {
#pragma unroll 8
    for (int k = 0; k < terms; ++k) {
      const Vec4 w = chunk.w[k][column];
#pragma unroll
      for (int r = 0; r < Shape::kEach; ++r) {
        const float x = chunk.x[k][row + r * Shape::kRowThreads];
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[r][c] = add(sum[r][c], multiply(w.at[c], x));
      }
    }
    return;
  }
#pragma unroll
  for (int r = 0; r < Shape::kEach; ++r) {
    for (unsigned left = mask[r]; left != 0; left &= left - 1) {
      const int k = __ffs(static_cast<int>(left)) - 1;
      const Vec4 w = chunk.w[k][column];
      const float x = chunk.x[k][row + r * Shape::kRowThreads];
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[r][c] = add(sum[r][c], multiply(w.at[c], x));
    }
  }
}

// Adds the bias to the sums of a tile and stores those inside y; neighbouring threads store neighbours.
template <class Shape, class Layer>
__device__ __forceinline__ void store_tile(const Layer& layer,
                                           const float (&sums)[Shape::kRows][Shape::kColumns + 1],
                                           std::int64_t matrix, std::int64_t first_row,
                                           std::int64_t first_column) {
  const int thread = static_cast<int>(threadIdx.x);
  const float* bias = layer.bias == nullptr ? nullptr : layer.bias + matrix * layer.columns + first_column;
  const std::int64_t rows = layer.rows - first_row, columns = layer.columns - first_column;
  const auto store = [&](float* y_row, int row, int column) {
    const float sum = sums[row][column];
    y_row[(first_column + column) * layer.column_stride] = bias == nullptr ? sum : add(sum, bias[column]);
  };
  if constexpr (Layer::kRowsFirst) {
    const int row = thread % Shape::kRows;
    if (row >= rows) return;
    float* y_row = layer.y_row(matrix, first_row + row);
    for (int column = thread / Shape::kRows; column < Shape::kColumns && column < columns;
         column += kTileThreads / Shape::kRows)
      store(y_row, row, column);
  } else {
    const int column = thread % Shape::kColumns;
    if (column >= columns) return;
    for (int row = thread / Shape::kColumns; row < Shape::kRows && row < rows;
         row += kTileThreads / Shape::kColumns)
      store(layer.y_row(matrix, first_row + row), row, column);
  }
}

template <class Shape, class Layer>
__device__ void sum_tiles(const Layer& layer, TileMemory<Shape>& memory) {
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / Shape::kColumnThreads, column = thread % Shape::kColumnThreads;
  const std::int64_t row_tiles = (layer.rows + Shape::kRows - 1) / Shape::kRows;
  const std::int64_t column_tiles = (layer.columns + Shape::kColumns - 1) / Shape::kColumns;
  const std::int64_t tiles = layer.matrices * row_tiles * column_tiles;
  for (int k = thread; k < 2 * Shape::kRows; k += kTileThreads) (&memory.masks[0][0])[k] = 0;
  for (std::int64_t number = blockIdx.x; number < tiles; number += gridDim.x) {
    // Tiles with the same rows are consecutive: x is read once from memory, then from the cache.
    const std::int64_t first_column = number % column_tiles * Shape::kColumns;
    const std::int64_t first_row = number / column_tiles % row_tiles * Shape::kRows;
    const std::int64_t matrix = number / column_tiles / row_tiles;
    typename Layer::template Tile<Shape> tile(layer, matrix, first_row);
    typename Layer::Value x[Shape::kLoads];
    Vec4 w[Shape::kWeightLoads];
    float sum[Shape::kEach][4] = {};
    int current = 0;
    tile.load(x);
    load_weights<Shape>(layer, matrix, 0, first_column, w);
    __syncthreads();
    for (std::int64_t term = 0; term < layer.terms; term += kTerms, current ^= 1) {
      tile.put(x, memory.chunk.x, memory.masks[current]);
#pragma unroll
      for (int n = 0; n < Shape::kWeightLoads; ++n) {
        const int at = thread + n * kTileThreads;
        if (at < kTerms * Shape::kColumnThreads) (&memory.chunk.w[0][0])[at] = w[n];
      }
      __syncthreads();
      if (term + kTerms < layer.terms) {  // in flight while the current chunk is summed
        tile.load(x);
        load_weights<Shape>(layer, matrix, term + kTerms, first_column, w);
      }
      const int terms = at_most(kTerms, layer.terms - term);
      add_chunk<Shape>(memory.chunk, memory.masks[current], terms, layer.route, row, column, sum);
      for (int k = thread; k < Shape::kRows; k += kTileThreads) memory.masks[current ^ 1][k] = 0;
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < Shape::kEach; ++r) {
#pragma unroll
      for (int c = 0; c < 4; ++c) memory.sums[row + r * Shape::kRowThreads][4 * column + c] = sum[r][c];
    }
    for (int k = thread; k < 2 * Shape::kRows; k += kTileThreads) (&memory.masks[0][0])[k] = 0;
    __syncthreads();
    store_tile<Shape>(layer, memory.sums, matrix, first_row, first_column);
    __syncthreads();
  }
}

template <class Layer, class Shape>
__global__ void __launch_bounds__(kTileThreads, 3) ordered_tiles(const Layer layer) {
  NEUROCUDA_SHARED(typename Layer::template Memory<Shape>, memory);
  sum_tiles<Shape>(layer, memory);
}

// ---- Few rows: a block per row and kListThreads columns, a thread per column. The block lists the nonzero
// terms and reads only their weights from global memory. Tiles would be too few to occupy the device.

constexpr int kListThreads = 128;

template <class Layer>
__global__ void __launch_bounds__(kListThreads) ordered_lists(const Layer layer) {
  NEUROCUDA_SHARED(SpikeList<kListThreads>, list);
  const std::int64_t column_tiles = (layer.columns + kListThreads - 1) / kListThreads;
  const std::int64_t tiles = layer.matrices * layer.rows * column_tiles;
  for (std::int64_t number = blockIdx.x; number < tiles; number += gridDim.x) {
    const std::int64_t column = number % column_tiles * kListThreads + threadIdx.x;
    const std::int64_t row = number / column_tiles % layer.rows;
    const std::int64_t matrix = number / column_tiles / layer.rows;
    const bool valid = column < layer.columns;
    const float* weight = layer.prepacked + matrix * layer.terms * layer.padded + column;
    float sum = 0.0f;
    for (std::int64_t first = 0; first < layer.terms; first += list.kCapacity) {
      const int count = at_most(list.kCapacity, layer.terms - first);
      const int spikes = list.build(count, layer.route == Route::kDense,
                                    [&](int term) { return layer.value(matrix, row, first + term); });
      if (valid) sum = list.sum(weight + first * layer.padded, layer.padded, spikes, sum);
    }
    if (!valid) continue;
    if (layer.bias != nullptr) sum = add(sum, layer.bias[matrix * layer.columns + column]);
    layer.y_row(matrix, row)[column * layer.column_stride] = sum;
  }
}

// ---- Choice of the variant by shape.

enum class OrderedVariant { kLists, kSmallTiles, kTiles, kHalfTiles, kNarrowTiles, kThinTiles };

// Tiles have 4, 16, 32 or 64 columns, according to the number of columns. Tiles of 64 x 64 read the fewest
// bytes: a weight for 64 rows, an input for 64 columns. If they are fewer than the multiprocessors, tiles of
// 16 rows are used, four times as many. With up to 32 rows even those are few and a weight is used only a few
// times: lists read only the weights of nonzero inputs.
inline OrderedVariant ordered_variant(std::int64_t matrices, std::int64_t rows, std::int64_t columns,
                                      int multiprocessors) {
  const auto tiles = [&](std::int64_t tall, std::int64_t wide) {
    return matrices * ((rows + tall - 1) / tall) * ((columns + wide - 1) / wide);
  };
  if (rows <= 32) return OrderedVariant::kLists;
  if (columns <= 4) return OrderedVariant::kThinTiles;
  if (columns <= 16) return OrderedVariant::kNarrowTiles;
  if (tiles(64, 64) < multiprocessors) return OrderedVariant::kSmallTiles;
  return columns <= 32 ? OrderedVariant::kHalfTiles : OrderedVariant::kTiles;
}

template <class Shape, class Layer>
void launch_tiles(const Layer& layer, Stream stream) {
  const std::int64_t tiles = layer.matrices * ((layer.rows + Shape::kRows - 1) / Shape::kRows) *
                             ((layer.columns + Shape::kColumns - 1) / Shape::kColumns);
  NEUROCUDA_LAUNCH((ordered_tiles<Layer, Shape>), grid_of(tiles), kTileThreads, 0, stream, layer);
}

template <class Layer>
void launch_ordered(const Layer& layer, Stream stream) {
  if (layer.matrices == 0 || layer.rows == 0 || layer.columns == 0) return;
  switch (ordered_variant(layer.matrices, layer.rows, layer.columns, device_limits().multiprocessors)) {
    case OrderedVariant::kLists: {
      const std::int64_t columns = (layer.columns + kListThreads - 1) / kListThreads;
      const std::int64_t tiles = layer.matrices * layer.rows * columns;
      NEUROCUDA_LAUNCH(ordered_lists<Layer>, grid_of(tiles), kListThreads, 0, stream, layer);
      return;
    }
    case OrderedVariant::kSmallTiles:
      return launch_tiles<TileShape<1, 16>>(layer, stream);
    case OrderedVariant::kTiles:
      return launch_tiles<TileShape<4, 16>>(layer, stream);
    case OrderedVariant::kHalfTiles:
      return launch_tiles<TileShape<4, 8>>(layer, stream);
    case OrderedVariant::kNarrowTiles:
      return launch_tiles<TileShape<2, 4>>(layer, stream);
    case OrderedVariant::kThinTiles:
      return launch_tiles<TileShape<1, 1>>(layer, stream);
  }
}

}  // namespace neurocuda::cuda
