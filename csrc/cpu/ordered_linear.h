// Matrix products summed in ascending order of the input feature: one product, one sum at a time, bias last.
#pragma once

#include <cstdint>

namespace neurocuda::cpu {

// How a sum is computed, with the same bits: every term, or only those whose input is not zero.
enum class Route { kMeasured, kDense, kEvents };

// Output features of a packed matrix: rounded up to whole vectors.
std::int64_t padded_features(std::int64_t features);

// [batch, out, in] to [batch, in, padded_features(out)], zeros at the end.
void pack_linear(const float* weight, float* packed, std::int64_t batch, std::int64_t out, std::int64_t in);

struct OrderedLinear {
  const void* x;        // [rows, batch, in], float or bytes
  bool bytes;           // x is uint8 or bool
  const float* packed;  // of pack_linear
  const float* bias;    // [batch, out] or null
  float* y;             // [rows, batch, out]
  std::int64_t batch, in, out;
  Route route;
};

// Rows begin..end of the product with one matrix of the batch.
void ordered_linear(const OrderedLinear& job, std::int64_t matrix, std::int64_t begin, std::int64_t end);

}  // namespace neurocuda::cpu
