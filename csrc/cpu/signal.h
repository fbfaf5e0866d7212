// Rows of neurons of a signal, as float32 side by side.
#pragma once

#include <cstdint>

#include "cpu/elements.h"
#include "params/signal.h"

namespace neurocuda::cpu {

constexpr std::int64_t kBlock = 1024;  // neurons whose copies stay in the first-level cache

// Neurons first .. first + count - 1 of a step as float32, added to `onto` if given, which may be `to`; at
// most kBlock where not direct.
void read_row(const Signal& signal, std::int64_t step, std::int64_t first, std::int64_t count, float* to,
              const float* onto = nullptr);

// The reverse.
void write_row(const Signal& signal, std::int64_t step, std::int64_t first, std::int64_t count,
               const float* from);

// Prefetches a row: where few neurons of many are run over time, rows are too far apart for
// the hardware to see them coming.
inline void prefetch_row(const Signal& signal, std::int64_t step, std::int64_t first, std::int64_t count) {
  if (!signal.dense || signal.time_stride == 0) return;
  const char* row = signal.data + step * signal.time_stride + first * size_of(signal.type);
  for (std::int64_t byte = 0; byte < count * size_of(signal.type); byte += 64) {
    __builtin_prefetch(row + byte, 0, 2);
  }
}

// The sum of the branches, left fold in the order given.
void sum_rows(const Signal* branches, int branch_count, std::int64_t step, std::int64_t first,
              std::int64_t count, float* to);

}  // namespace neurocuda::cpu
