// Matrix products, each output summed in ascending order of the input feature: the layer of ordered_sum.cuh.
#pragma once

#include "cuda/ordered_sum.cuh"

namespace neurocuda::cuda {

template <class X>
struct LinearLayer {
  using Value = X;
  static constexpr bool kRowsFirst = false;
  template <class Shape>
  using Memory = TileMemory<Shape>;

  std::int64_t rows, columns, terms, matrices, padded, column_stride;
  const float* prepacked;
  const float* bias;
  Route route;
  const Value* x;  // [rows, matrices, terms]
  float* y;        // [rows, matrices, columns]

  explicit LinearLayer(const OrderedLinear& params)
      : rows(params.rows),
        columns(params.out),
        terms(params.in),
        matrices(params.batch),
        padded(padded_features(params.out)),
        column_stride(1),
        prepacked(params.prepacked),
        bias(params.bias),
        route(params.route),
        x(static_cast<const Value*>(params.x)),
        y(params.y) {}

  __device__ __forceinline__ float value(std::int64_t matrix, std::int64_t row, std::int64_t term) const {
    return static_cast<float>(x[(row * matrices + matrix) * terms + term]);
  }
  __device__ __forceinline__ float* y_row(std::int64_t matrix, std::int64_t row) const {
    return y + (row * matrices + matrix) * columns;
  }

  // The lanes of a warp read neighbouring terms; a warp reads every eighth row.
  template <class Shape>
  class Tile {
   public:
    __device__ Tile(const LinearLayer& layer, std::int64_t matrix, std::int64_t first_row)
        : pitch_(layer.matrices * layer.terms),
          rows_(layer.rows - first_row),
          terms_(layer.terms),
          term_(threadIdx.x % kTerms),
          row_(static_cast<int>(threadIdx.x) / kTerms),
          x_(layer.x + (first_row * layer.matrices + matrix) * layer.terms) {}

    __device__ __forceinline__ void load(Value (&to)[Shape::kLoads]) {
#pragma unroll
      for (int n = 0; n < Shape::kLoads; ++n) {
        const int row = row_ + n * kRowsAtOnce;
        to[n] = row < rows_ && term_ < terms_ ? x_[row * pitch_ + term_] : Value(0);
      }
      term_ += kTerms;
    }

    __device__ __forceinline__ void put(const Value (&from)[Shape::kLoads],
                                        float (&x)[kTerms][Shape::kRows + 1], unsigned* masks) const {
      const int lane = static_cast<int>(threadIdx.x) % kTerms;
#pragma unroll
      for (int n = 0; n < Shape::kLoads; ++n) {
        const int row = row_ + n * kRowsAtOnce;
        const float value = static_cast<float>(from[n]);
        x[lane][row] = value;
        const unsigned mask = __ballot_sync(kFullWarp, value != 0.0f);
        if (lane == 0) masks[row] = mask;
      }
    }

   private:
    static constexpr int kRowsAtOnce = kTileThreads / kTerms;
    std::int64_t pitch_, rows_, terms_, term_;
    int row_;
    const Value* x_;
  };
};

}  // namespace neurocuda::cuda
