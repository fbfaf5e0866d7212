#include "cpu/ordered_linear.h"

#include <algorithm>
#include <memory>
#include <type_traits>

#include "cpu/denormals.h"
#include "cpu/event_sum.h"
#include "cpu/spike_list.h"
#include "cpu/vector.h"

namespace neurocuda::cpu {

namespace {

constexpr int kTile = 64;  // rows that share a pass over the weights

struct Matrix {
  const float* weight;  // [in, padded]
  const float* bias;    // [padded] or null
  std::int64_t in, out, padded;
};

// Adds the bias to sums of neighbouring outputs, and stores those that exist.
template <int lanes, int vectors>
NEUROCUDA_INLINE void finish(const Matrix& matrix, Vector<lanes> (&sum)[vectors], float* y,
                             std::int64_t column) {
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    const std::int64_t at = column + v * lanes, real = matrix.out - at;
    if (matrix.bias) sum[v] = sum[v] + load<lanes>(matrix.bias + at);
    store_some<lanes>(y + at, sum[v], real);
  }
}

// Every term, for several rows at once.
struct Dense {
  Matrix matrix;
  int count = 0;
  const float* x[kTile];  // rows of inputs
  float* y[kTile];        // rows of outputs

  template <int lanes, int rows, int vectors>
  NEUROCUDA_INLINE void block(int first, std::int64_t column) const {
    Vector<lanes> sum[rows][vectors] = {};
    const float* weight = matrix.weight + column;
    for (std::int64_t k = 0; k < matrix.in; ++k, weight += matrix.padded) {
      Vector<lanes> w[vectors];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) w[v] = load<lanes>(weight + v * lanes);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[r][v] = sum[r][v] + w[v] * x[first + r][k];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) finish<lanes, vectors>(matrix, sum[r], y[first + r], column);
  }

  template <int lanes, int rows, int vectors>
  NEUROCUDA_INLINE void columns(std::int64_t& column) const {
    for (; column + vectors * lanes <= matrix.padded; column += vectors * lanes) {
      int row = 0;
      for (; row + rows <= count; row += rows) block<lanes, rows, vectors>(row, column);
      for (; row < count; ++row) block<lanes, 1, vectors>(row, column);
    }
  }

  template <int lanes, int registers>
  static NEUROCUDA_INLINE void run(const Dense& job) {
    std::int64_t column = 0;
    if constexpr (registers >= 32) job.columns<lanes, 4, 4>(column);  // sums, weights and products fit
    job.columns<lanes, 4, 2>(column);
    job.columns<lanes, 8, 1>(column);
  }
};

// The terms of some features of one row.
struct Events {
  Matrix matrix;
  const std::int32_t* features;
  const float* values;  // of the features; null where all are 1
  std::int64_t count;
  float* y;

  template <int lanes, int vectors>
  NEUROCUDA_INLINE void columns(std::int64_t& column) const {
    for (; column + vectors * lanes <= matrix.padded; column += vectors * lanes) {
      Vector<lanes> sum[vectors] = {};
      sum_events<lanes, vectors>(matrix.weight + column, matrix.padded, features, values, count, sum);
      finish<lanes, vectors>(matrix, sum, y, column);
    }
  }

  template <int lanes, int registers>
  static NEUROCUDA_INLINE void run(const Events& job) {
    std::int64_t column = 0;
    job.columns<lanes, 8>(column);
    job.columns<lanes, 3>(column);
    job.columns<lanes, 1>(column);
  }
};

template <typename Value>
void run_rows(const OrderedLinear& layer, const Matrix& matrix, std::int64_t first, std::int64_t begin,
              std::int64_t end) {
  constexpr bool convertible = !std::is_same_v<Value, float>;
  // In cycles, roughly: a term waits for the one before it, unless enough vectors of outputs lie between.
  const std::int64_t vectors = (matrix.padded + 15) / 16, dense_cost = matrix.in * vectors;
  const std::int64_t event_cost = std::max<std::int64_t>(4, vectors + vectors / 4);
  const bool measure = layer.route == Route::kEvents || (layer.route == Route::kMeasured && dense_cost > 48);
  const std::unique_ptr<float[]> room(new float[matrix.in * (convertible ? kTile : 1)]);
  const std::unique_ptr<std::int32_t[]> features(new std::int32_t[matrix.in + kListSlack]);
  Dense dense;
  dense.matrix = matrix;
  for (std::int64_t row = begin; row < end; ++row) {
    const Value* x = static_cast<const Value*>(layer.x) + (row * layer.batch + first) * matrix.in;
    float* y = layer.y + (row * layer.batch + first) * matrix.out;
    if (measure) {
      const std::int64_t found = append_nonzero(x, matrix.in, 0, features.get()) - features.get();
      if (layer.route == Route::kEvents || found * event_cost + 40 < dense_cost) {
        float* values = room.get() + (convertible ? dense.count * matrix.in : 0);
        bool ones = true;
        for (std::int64_t n = 0; n < found; ++n) {
          values[n] = float(x[features[n]]);
          ones &= values[n] == 1.0f;
        }
        run_best<Events>(Events{matrix, features.get(), ones ? nullptr : values, found, y}, matrix.padded);
        continue;
      }
    }
    if constexpr (convertible) {
      float* to = room.get() + dense.count * matrix.in;
      for (std::int64_t k = 0; k < matrix.in; ++k) to[k] = float(x[k]);
      dense.x[dense.count] = to;
    } else {
      dense.x[dense.count] = x;
    }
    dense.y[dense.count++] = y;
    if (dense.count == kTile) {
      run_best<Dense>(dense, matrix.padded);
      dense.count = 0;
    }
  }
  run_best<Dense>(dense, matrix.padded);
}

}  // namespace

void prepack_linear(const float* weight, float* prepacked, std::int64_t batch, std::int64_t out,
                    std::int64_t in) {
  const std::int64_t padded = padded_features(out);
  for (std::int64_t matrix = 0; matrix < batch; ++matrix, weight += out * in, prepacked += in * padded) {
    for (std::int64_t k = 0; k < in; ++k) {
      for (std::int64_t o = 0; o < padded; ++o)
        prepacked[k * padded + o] = o < out ? weight[o * in + k] : 0.0f;
    }
  }
}

void ordered_linear(const OrderedLinear& layer, std::int64_t number, std::int64_t begin, std::int64_t end) {
  const KeepSubnormals keep;
  const std::int64_t padded = padded_features(layer.out);
  AlignedFloats bias(layer.bias ? padded : 0);
  bias.clear();
  if (layer.bias) std::copy_n(layer.bias + number * layer.out, layer.out, bias.data());
  const Matrix matrix{layer.prepacked + number * layer.in * padded, layer.bias ? bias.data() : nullptr,
                      layer.in, layer.out, padded};
  if (layer.bytes)
    run_rows<std::uint8_t>(layer, matrix, number, begin, end);
  else
    run_rows<float>(layer, matrix, number, begin, end);
}

}  // namespace neurocuda::cpu
