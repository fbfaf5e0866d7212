// Convolutions of bytes as one product of matrices, whose rows are output positions, whose columns are output
// channels, and whose terms are kernel rows, kernel columns and input channels. Nothing is unfolded: a block
// copies the inputs of its rows to shared memory a few terms at a time, several copies ahead of what it
// computes. Tensor cores multiply and add; sums are of 32 bits, so that their order does not matter.
#pragma once

#include "cuda/async_copy.cuh"
#include "cuda/elements.cuh"
#include "params/integer_conv.h"

namespace neurocuda::cuda {

constexpr int kIntegerRows = 128;  // of a tile
constexpr int kIntegerStages = 4;  // steps whose terms are in shared memory, or on the way there
constexpr int kIntegerPitch = 80;  // bytes from row to row: eight of them keep out of each other's banks
constexpr int kPieceBytes = 16;    // of a copy
constexpr int kPieces = static_cast<int>(kIntegerTerms) / kPieceBytes;  // of a row and step

// A warp has 32 rows and 64 columns; four of them are one above the other.
template <int column_warps>
struct IntegerShape {
  static constexpr int kColumns = 64 * column_warps;
  static constexpr int kThreads = 128 * column_warps;
  static constexpr int kCopiedRows = kThreads / kPieces;  // at a time, by all threads
  static constexpr int kStageBytes = (kIntegerRows + kColumns) * kIntegerPitch;
  static constexpr std::size_t kSharedBytes = std::size_t{kIntegerStages} * kStageBytes;
};

// sum += a * b for 16 rows, 8 columns and 32 terms. A thread has, of a, terms 4n .. 4n + 3 of row g, of row g
// + 8, and 16 terms further of both; of b the same of column g; of the sums, columns 2n and 2n + 1 of row g,
// and of row g + 8: g is its number in the warp divided by 4, n what is left.
__device__ __forceinline__ void multiply_add(const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                             std::int32_t (&sum)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDA_ARCH__)
  __trap();  // launch_integer_conv refuses such devices
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
    for (int k = 0; k < 4; ++k) of_a[k] = __shfl_sync(kWholeWarp, a[k], 4 * row + n);
    for (int c = 0; c < 2; ++c) {
      for (int k = 0; k < 2; ++k) of_b[c][k] = __shfl_sync(kWholeWarp, b[k], 4 * (column + c) + n);
    }
    for (int c = 0; c < 2; ++c) {
      sum[c] += products(of_a[0], of_b[c][0]) + products(of_a[2], of_b[c][1]);
      sum[2 + c] += products(of_a[1], of_b[c][0]) + products(of_a[3], of_b[c][1]);
    }
  }
#endif
}

// The inputs that a thread copies: piece `threadIdx.x % kPieces` of some rows, step after step, as an
// odometer goes.
template <class Shape>
class InputCopies {
 public:
  __device__ __forceinline__ InputCopies(const IntegerConv& call, std::int64_t first_row)
      : call_(call), channel_(static_cast<int>(threadIdx.x) % kPieces * kPieceBytes), row_(0), column_(0) {
    const std::int64_t positions = call.rows.out * call.columns.out, rows = call.frames * positions;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const std::int64_t row = first_row + static_cast<int>(threadIdx.x) / kPieces + n * Shape::kCopiedRows;
      const std::int64_t frame = row / positions;
      const auto position = static_cast<int>(row - frame * positions),
                 across = static_cast<int>(call.columns.out);
      frames_[n] = call.x + frame * call.rows.in * call.columns.in * call.channels;
      top_[n] = position / across * static_cast<int>(call.rows.stride) - static_cast<int>(call.rows.pad);
      left_[n] =
          position % across * static_cast<int>(call.columns.stride) - static_cast<int>(call.columns.pad);
      if (row >= rows)
        top_[n] = static_cast<int>(call.rows.in);  // below the frame, whatever the kernel's row
    }
    carry();
  }

  __device__ __forceinline__ void start(unsigned char* stage) {
    unsigned char* to = stage + static_cast<int>(threadIdx.x) / kPieces * kIntegerPitch +
                        static_cast<int>(threadIdx.x) % kPieces * kPieceBytes;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const int row = top_[n] + row_ * static_cast<int>(call_.rows.dilation);
      const int column = left_[n] + column_ * static_cast<int>(call_.columns.dilation);
      const bool there = row_ < call_.rows.kernel &&
                         static_cast<unsigned>(row) < static_cast<unsigned>(call_.rows.in) &&
                         static_cast<unsigned>(column) < static_cast<unsigned>(call_.columns.in);
      const int offset =
          (row * static_cast<int>(call_.columns.in) + column) * static_cast<int>(call_.channels) + channel_;
      start_copy(to + n * Shape::kCopiedRows * kIntegerPitch, there ? frames_[n] + offset : call_.x, there);
    }
    channel_ += static_cast<int>(kIntegerTerms);
    carry();
  }

 private:
  static constexpr int kRows = kIntegerRows / Shape::kCopiedRows;

  __device__ __forceinline__ void carry() {
    while (channel_ >= call_.channels) {
      channel_ -= static_cast<int>(call_.channels);
      if (++column_ < call_.columns.kernel) continue;
      column_ = 0;
      ++row_;
    }
  }

  const IntegerConv& call_;
  const std::uint8_t* frames_[kRows];
  int top_[kRows], left_[kRows];
  int channel_, row_, column_;  // of the kernel
};

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    integer_conv_tiles(const __grid_constant__ IntegerConv call) {
  NEUROCUDA_DYNAMIC_SHARED(unsigned char, memory);
  const std::int64_t column_tiles = (call.out + Shape::kColumns - 1) / Shape::kColumns;
  // Tiles with the same rows follow one another: x is read once from memory, then from the cache.
  const std::int64_t first_row = blockIdx.x / column_tiles * kIntegerRows;
  const std::int64_t first_column = blockIdx.x % column_tiles * Shape::kColumns;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, group = thread % 32 / 4,
            place = thread % 4;
  const auto steps = static_cast<int>(call.terms / kIntegerTerms);
  InputCopies<Shape> inputs(call, first_row);
  const std::int8_t* weight =
      call.weight + (first_column + thread / kPieces) * call.terms + thread % kPieces * kPieceBytes;
  const auto start = [&](int step) {
    if (step < steps) {
      unsigned char* stage = memory + step % kIntegerStages * Shape::kStageBytes;
      inputs.start(stage);
      unsigned char* to =
          stage + (kIntegerRows + thread / kPieces) * kIntegerPitch + thread % kPieces * kPieceBytes;
#pragma unroll
      for (int row = 0; row < Shape::kColumns; row += Shape::kCopiedRows)
        start_copy(to + row * kIntegerPitch, weight + row * call.terms, true);
      weight += kIntegerTerms;
    }
    end_group();  // of none, past the last
  };
#pragma unroll
  for (int step = 0; step < kIntegerStages - 1; ++step) start(step);

  const int own_row = warp % 4 * 32 + group, own_column = warp / 4 * 64 + group;
  std::int32_t sums[2][8][4] = {};
  for (int step = 0; step < steps; ++step) {
    wait_for_groups<kIntegerStages - 2>();
    __syncthreads();
    start(step + kIntegerStages - 1);  // where the step before was, which nobody reads any more
    const unsigned char* stage = memory + step % kIntegerStages * Shape::kStageBytes + 4 * place;
    const auto word = [&](int row, int term) {
      return *reinterpret_cast<const std::uint32_t*>(stage + row * kIntegerPitch + term);
    };
#pragma unroll
    for (int term = 0; term < kIntegerTerms; term += 32) {
      std::uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const int row = own_row + 16 * m;
        a[m][0] = word(row, term);
        a[m][1] = word(row + 8, term);
        a[m][2] = word(row, term + 16);
        a[m][3] = word(row + 8, term + 16);
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int row = kIntegerRows + own_column + 8 * n;
        const std::uint32_t b[2] = {word(row, term), word(row, term + 16)};
#pragma unroll
        for (int m = 0; m < 2; ++m) multiply_add(a[m], b, sums[m][n]);
      }
    }
  }

  const std::int64_t rows = call.frames * call.rows.out * call.columns.out;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const std::int64_t column = first_column + warp / 4 * 64 + 8 * n + 2 * place;
    const int columns = call.out - column >= 2 ? 2 : static_cast<int>(call.out - column);
    if (columns <= 0) continue;
    const std::int64_t last = column + columns - 1;
    const float scale[2] = {call.scale[column], call.scale[last]};
    const float bias[2] = {call.bias == nullptr ? 0.0f : call.bias[column],
                           call.bias == nullptr ? 0.0f : call.bias[last]};
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const std::int64_t row = first_row + own_row + 8 * m;
      if (row >= rows) continue;
      float* to = call.y + row * call.out + column;
      float value[2] = {};
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        value[c] = multiply(static_cast<float>(sums[m / 2][n][m % 2 * 2 + c]), scale[c]);
        if (call.bias != nullptr) value[c] = add(value[c], bias[c]);
      }
      if (call.out % 2 == 0) {
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
void launch_integer_tiles(const IntegerConv& call, Stream stream) {
  const std::int64_t rows = call.frames * call.rows.out * call.columns.out;
  const std::int64_t tiles =
      (rows + kIntegerRows - 1) / kIntegerRows * ((call.out + Shape::kColumns - 1) / Shape::kColumns);
  allow_shared(integer_conv_tiles<Shape>, Shape::kSharedBytes);
  NEUROCUDA_LAUNCH(integer_conv_tiles<Shape>, static_cast<unsigned>(tiles), Shape::kThreads,
                   Shape::kSharedBytes, stream, call);
}

inline void launch_integer_conv(const IntegerConv& call, Stream stream) {
#if !defined(NEUROCUDA_EMULATED)
  if (attribute(cudaDevAttrComputeCapabilityMajor) < 8) {
    throw std::invalid_argument("x: expected it on a device of compute capability 8.0 or above");
  }
#endif
  if (integer_tile(call.out) == 64) {
    launch_integer_tiles<IntegerShape<1>>(call, stream);
  } else {
    launch_integer_tiles<IntegerShape<2>>(call, stream);
  }
}

}  // namespace neurocuda::cuda
