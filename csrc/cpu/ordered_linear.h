// Matrix products in a defined order, on the CPU.
#pragma once

#include <cstdint>

#include "params/ordered_linear.h"

namespace neurocuda::cpu {

// [batch, out, in] to [batch, in, padded_features(out)], zeros at the end.
void prepack_linear(const float* weight, float* prepacked, std::int64_t batch, std::int64_t out,
                    std::int64_t in);

// Rows begin..end of the product with one matrix of the batch.
void ordered_linear(const OrderedLinear& job, std::int64_t matrix, std::int64_t begin, std::int64_t end);

}  // namespace neurocuda::cpu
