#include "cpu/signal.h"

#include <algorithm>
#include <cstring>

namespace neurocuda::cpu {
namespace {

// Calls segment(pointer, stride, count) for the evenly spaced pieces that make up `count` neurons of a step.
template <class Segment>
void walk(const Signal& signal, std::int64_t step, std::int64_t first, std::int64_t count, Segment segment) {
  std::int64_t index[kMaxAxes];
  char* place = signal.data + step * signal.time_stride;
  for (int axis = signal.axes - 1; axis >= 0; --axis) {
    index[axis] = first % signal.sizes[axis];
    first /= signal.sizes[axis];
    place += index[axis] * signal.strides[axis];
  }
  const int last = signal.axes - 1;
  while (count > 0) {
    const std::int64_t run = std::min(count, signal.sizes[last] - index[last]);
    segment(place, signal.strides[last], run);
    count -= run;
    index[last] += run;
    place += run * signal.strides[last];
    for (int axis = last; axis > 0 && index[axis] == signal.sizes[axis]; --axis) {
      place += signal.strides[axis - 1] - index[axis] * signal.strides[axis];
      index[axis] = 0;
      ++index[axis - 1];
    }
  }
}

template <std::int64_t size>
void gather(const Signal& signal, std::int64_t step, std::int64_t first, std::int64_t count, char* to) {
  walk(signal, step, first, count, [&to](const char* place, std::int64_t stride, std::int64_t run) {
    if (stride == size) std::memcpy(to, place, run * size);
    for (std::int64_t k = 0; stride != size && k < run; ++k) {
      std::memcpy(to + k * size, place + k * stride, size);
    }
    to += run * size;
  });
}

template <std::int64_t size>
void scatter(const Signal& signal, std::int64_t step, std::int64_t first, std::int64_t count,
             const char* from) {
  walk(signal, step, first, count, [&from](char* place, std::int64_t stride, std::int64_t run) {
    if (stride == size) std::memcpy(place, from, run * size);
    for (std::int64_t k = 0; stride != size && k < run; ++k) {
      std::memcpy(place + k * stride, from + k * size, size);
    }
    from += run * size;
  });
}

}  // namespace

void read_row(const Signal& signal, std::int64_t step, std::int64_t first, std::int64_t count, float* to,
              const float* onto) {
  const std::int64_t size = size_of(signal.type);
  if (signal.dense) {
    const char* row = signal.data + step * signal.time_stride + first * size;
    return read_elements(signal.type, row, count, to, onto);
  }
  alignas(64) char copy[4 * kBlock];
  if (size == 4) gather<4>(signal, step, first, count, copy);
  if (size == 2) gather<2>(signal, step, first, count, copy);
  if (size == 1) gather<1>(signal, step, first, count, copy);
  read_elements(signal.type, copy, count, to, onto);
}

void write_row(const Signal& signal, std::int64_t step, std::int64_t first, std::int64_t count,
               const float* from) {
  const std::int64_t size = size_of(signal.type);
  if (signal.dense) {
    return write_elements(signal.type, from, count, signal.data + step * signal.time_stride + first * size);
  }
  alignas(64) char copy[4 * kBlock];
  write_elements(signal.type, from, count, copy);
  if (size == 4) scatter<4>(signal, step, first, count, copy);
  if (size == 2) scatter<2>(signal, step, first, count, copy);
  if (size == 1) scatter<1>(signal, step, first, count, copy);
}

void sum_rows(const Signal* branches, int branch_count, std::int64_t step, std::int64_t first,
              std::int64_t count, float* to) {
  const float* onto = nullptr;
  int branch = 0;
  if (branch_count > 1 && branches[0].direct()) onto = branches[branch++].row(step, first);
  for (; branch < branch_count; ++branch) {
    read_row(branches[branch], step, first, count, to, onto);
    onto = to;
  }
}

}  // namespace neurocuda::cpu
