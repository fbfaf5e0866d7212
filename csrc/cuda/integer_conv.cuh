// Convolutions of bytes (int8 layers) as an implicit matrix product on tensor cores: rows are output
// positions, columns output channels, terms kernel rows, kernel columns and input channels. A block has a
// tile of 128 rows and 64 or 128 columns; a warp 32 rows and 64 columns, as mma.m16n8k32 fragments. Terms
// stream through shared memory in chunks of kIntegerTerms, copied asynchronously kIntegerStages - 1 chunks
// ahead; the input is not unfolded in memory. Sums are int32, so their order does not matter.
#pragma once

#include "cuda/async_copy.cuh"
#include "cuda/elements.cuh"
#include "params/integer_conv.h"

namespace neurocuda::cuda {

constexpr int kIntegerRows = 128;  // per tile
constexpr int kIntegerStages = 4;  // chunks in shared memory, or in flight to it
constexpr int kIntegerPitch = 80;  // bytes from row to row: eight rows have no bank conflicts
constexpr int kPieceBytes = 16;    // per copy
constexpr int kPieces = static_cast<int>(kIntegerTerms) / kPieceBytes;  // per row and chunk

// Four warps cover the rows of a tile, column_warps its columns.
template <int column_warps>
struct IntegerShape {
  static constexpr int kColumns = 64 * column_warps;
  static constexpr int kThreads = 128 * column_warps;
  static constexpr int kCopiedRows = kThreads / kPieces;  // per copy of all threads
  static constexpr int kStageBytes = (kIntegerRows + kColumns) * kIntegerPitch;
  static constexpr std::size_t kSharedBytes = std::size_t{kIntegerStages} * kStageBytes;
};

// sum += a * b for 16 rows, 8 columns and 32 terms, by a warp. Lane 4 * g + n has: of a, terms 4n .. 4n + 3
// of rows g and g + 8, and the same 16 terms later; of b, the same terms of column g; of the sums, columns 2n
// and 2n + 1 of rows g and g + 8 (the PTX ISA's fragment layout of mma.m16n8k32).
__device__ __forceinline__ void multiply_add(const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                             std::int32_t (&sum)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDA_ARCH__)
  __trap();  // integer_conv refuses such devices
#else
  const auto products = [](std::uint32_t unsigned_bytes, std::uint32_t signed_bytes) {
    std::int32_t total = 0;
    for (int k = 0; k < 4; ++k) {
      total += static_cast<std::int32_t>(unsigned_bytes >> 8 * k & 0xffu) *
               static_cast<std::int8_t>(signed_bytes >> 8 * k & 0xffu);
    }
    return total;
  };
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4, column = lane % 4 * 2;
  for (int n = 0; n < 4; ++n) {
    std::uint32_t of_a[4], of_b[2][2];
    for (int k = 0; k < 4; ++k) of_a[k] = __shfl_sync(kFullWarp, a[k], 4 * row + n);
    for (int c = 0; c < 2; ++c) {
      for (int k = 0; k < 2; ++k) of_b[c][k] = __shfl_sync(kFullWarp, b[k], 4 * (column + c) + n);
    }
    for (int c = 0; c < 2; ++c) {
      sum[c] += products(of_a[0], of_b[c][0]) + products(of_a[2], of_b[c][1]);
      sum[2 + c] += products(of_a[1], of_b[c][0]) + products(of_a[3], of_b[c][1]);
    }
  }
#endif
}

// A thread's part of the copies of inputs: piece threadIdx.x % kPieces of some rows. From chunk to chunk it
// increments channel, kernel column and kernel row without divisions.
template <class Shape>
class InputCopies {
 public:
  __device__ __forceinline__ InputCopies(const IntegerConv& params, std::int64_t first_row)
      : params_(params),
        channel_(static_cast<int>(threadIdx.x) % kPieces * kPieceBytes),
        row_(0),
        column_(0) {
    const std::int64_t positions = params.rows.out * params.columns.out, rows = params.frames * positions;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const std::int64_t row = first_row + static_cast<int>(threadIdx.x) / kPieces + n * Shape::kCopiedRows;
      const std::int64_t frame = row / positions;
      const auto position = static_cast<int>(row - frame * positions),
                 across = static_cast<int>(params.columns.out);
      frames_[n] = params.x + frame * params.rows.in * params.columns.in * params.channels;
      top_[n] = position / across * static_cast<int>(params.rows.stride) - static_cast<int>(params.rows.pad);
      left_[n] =
          position % across * static_cast<int>(params.columns.stride) - static_cast<int>(params.columns.pad);
      if (row >= rows)
        top_[n] = static_cast<int>(params.rows.in);  // below the frame for every kernel row: copies zeros
    }
    carry();
  }

  __device__ __forceinline__ void start(unsigned char* stage) {
    unsigned char* to = stage + static_cast<int>(threadIdx.x) / kPieces * kIntegerPitch +
                        static_cast<int>(threadIdx.x) % kPieces * kPieceBytes;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const int row = top_[n] + row_ * static_cast<int>(params_.rows.dilation);
      const int column = left_[n] + column_ * static_cast<int>(params_.columns.dilation);
      const bool valid = row_ < params_.rows.kernel &&
                         static_cast<unsigned>(row) < static_cast<unsigned>(params_.rows.in) &&
                         static_cast<unsigned>(column) < static_cast<unsigned>(params_.columns.in);
      const int offset =
          (row * static_cast<int>(params_.columns.in) + column) * static_cast<int>(params_.channels) +
          channel_;
      start_copy(to + n * Shape::kCopiedRows * kIntegerPitch, valid ? frames_[n] + offset : params_.x, valid);
    }
    channel_ += static_cast<int>(kIntegerTerms);
    carry();
  }

 private:
  static constexpr int kRows = kIntegerRows / Shape::kCopiedRows;

  __device__ __forceinline__ void carry() {
    while (channel_ >= params_.channels) {
      channel_ -= static_cast<int>(params_.channels);
      if (++column_ < params_.columns.kernel) continue;
      column_ = 0;
      ++row_;
    }
  }

  const IntegerConv& params_;
  const std::uint8_t* frames_[kRows];
  int top_[kRows], left_[kRows];
  int channel_, row_, column_;  // of the kernel
};

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    integer_conv_tiles(const __grid_constant__ IntegerConv params) {
  NEUROCUDA_DYNAMIC_SHARED(unsigned char, memory);
  const std::int64_t column_tiles = (params.out + Shape::kColumns - 1) / Shape::kColumns;
  // Tiles with the same rows are consecutive: x is read once from memory, then from the cache.
  const std::int64_t first_row = blockIdx.x / column_tiles * kIntegerRows;
  const std::int64_t first_column = blockIdx.x % column_tiles * Shape::kColumns;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, group = thread % 32 / 4,
            quad = thread % 4;
  const auto chunks = static_cast<int>(params.terms / kIntegerTerms);
  InputCopies<Shape> inputs(params, first_row);
  const std::int8_t* weight =
      params.weight + (first_column + thread / kPieces) * params.terms + thread % kPieces * kPieceBytes;
  const auto start = [&](int chunk) {
    if (chunk < chunks) {
      unsigned char* stage = memory + chunk % kIntegerStages * Shape::kStageBytes;
      inputs.start(stage);
      unsigned char* to =
          stage + (kIntegerRows + thread / kPieces) * kIntegerPitch + thread % kPieces * kPieceBytes;
#pragma unroll
      for (int row = 0; row < Shape::kColumns; row += Shape::kCopiedRows)
        start_copy(to + row * kIntegerPitch, weight + row * params.terms, true);
      weight += kIntegerTerms;
    }
    end_group();  // past the last chunk: an empty group
  };
#pragma unroll
  for (int chunk = 0; chunk < kIntegerStages - 1; ++chunk) start(chunk);

  const int warp_row = warp % 4 * 32 + group, warp_column = warp / 4 * 64 + group;
  std::int32_t sums[2][8][4] = {};
  for (int chunk = 0; chunk < chunks; ++chunk) {
    wait_for_groups<kIntegerStages - 2>();
    __syncthreads();
    start(chunk + kIntegerStages - 1);  // replaces the previous chunk, which all warps have read
    const unsigned char* stage = memory + chunk % kIntegerStages * Shape::kStageBytes + 4 * quad;
    const auto word = [&](int row, int term) {
      return *reinterpret_cast<const std::uint32_t*>(stage + row * kIntegerPitch + term);
    };
#pragma unroll
    for (int term = 0; term < kIntegerTerms; term += 32) {
      std::uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const int row = warp_row + 16 * m;
        a[m][0] = word(row, term);
        a[m][1] = word(row + 8, term);
        a[m][2] = word(row, term + 16);
        a[m][3] = word(row + 8, term + 16);
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int row = kIntegerRows + warp_column + 8 * n;
        const std::uint32_t b[2] = {word(row, term), word(row, term + 16)};
#pragma unroll
        for (int m = 0; m < 2; ++m) multiply_add(a[m], b, sums[m][n]);
      }
    }
  }

  const std::int64_t rows = params.frames * params.rows.out * params.columns.out;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const std::int64_t column = first_column + warp / 4 * 64 + 8 * n + 2 * quad;
    const int columns = params.out - column >= 2 ? 2 : static_cast<int>(params.out - column);
    if (columns <= 0) continue;
    const std::int64_t last = column + columns - 1;
    const float scale[2] = {params.scale[column], params.scale[last]};
    const float bias[2] = {params.bias == nullptr ? 0.0f : params.bias[column],
                           params.bias == nullptr ? 0.0f : params.bias[last]};
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const std::int64_t row = first_row + warp_row + 8 * m;
      if (row >= rows) continue;
      float* to = params.y + row * params.out + column;
      float value[2] = {};
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        value[c] = multiply(static_cast<float>(sums[m / 2][n][m % 2 * 2 + c]), scale[c]);
        if (params.bias != nullptr) value[c] = add(value[c], bias[c]);
      }
      if (params.out % 2 == 0) {
        *reinterpret_cast<float2*>(to) = make_float2(value[0], value[1]);
      } else {
        to[0] = value[0];
        if (columns == 2) to[1] = value[1];
      }
      NEUROCUDA_STORES(4 * columns);
    }
  }
}

template <class Shape>
void launch_integer_tiles(const IntegerConv& params, Stream stream) {
  const std::int64_t rows = params.frames * params.rows.out * params.columns.out;
  const std::int64_t tiles =
      (rows + kIntegerRows - 1) / kIntegerRows * ((params.out + Shape::kColumns - 1) / Shape::kColumns);
  allow_shared(integer_conv_tiles<Shape>, Shape::kSharedBytes);
  NEUROCUDA_LAUNCH(integer_conv_tiles<Shape>, static_cast<unsigned>(tiles), Shape::kThreads,
                   Shape::kSharedBytes, stream, params);
}

}  // namespace neurocuda::cuda
