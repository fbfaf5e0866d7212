#include "cpu/pool2d.h"

#include <algorithm>
#include <vector>

#include "cpu/denormals.h"
#include "cpu/elements.h"
#include "cpu/multiversion.h"
#include "cpu/vector.h"

namespace neurocuda::cpu {
namespace {

constexpr std::int64_t kChunk = 4096;  // elements that are copied at once
constexpr std::int64_t kWidest = 16;   // lanes of the widest vector

// Output rows of one plane.
struct Band {
  const float* x;
  float* y;
  std::int64_t pitch, inner;  // floats of a row of x; of a pixel
  std::int64_t top, count;    // the windows of the first row start at row `top` of x, which may be negative
  PoolAxis rows, columns;
};

struct Range {
  std::int64_t begin, end;
};

// The elements of a window that lie inside of the image.
NEUROCUDA_INLINE Range inside(const PoolAxis& axis, std::int64_t start) {
  return {std::max<std::int64_t>(0, start), std::min(axis.in, start + axis.kernel)};
}

template <int lanes, int first, std::size_t... lane>
NEUROCUDA_INLINE Vector<lanes> every_second(const Vector<lanes>& a, const Vector<lanes>& b,
                                            std::index_sequence<lane...>) {
  return __builtin_shufflevector(a, b, (first + 2 * int(lane))...);
}

// Windows of 2 x 2, side by side, inside of the image: lanes are columns.
struct Quarters {
  template <int lanes>
  static NEUROCUDA_INLINE void columns(const float* upper, const float* lower, float* y) {
    constexpr auto sequence = std::make_index_sequence<lanes>();
    const auto a = load<lanes>(upper), b = load<lanes>(upper + lanes);
    const auto c = load<lanes>(lower), d = load<lanes>(lower + lanes);
    Vector<lanes> sum = every_second<lanes, 0>(a, b, sequence) + 0.0f;
    sum = sum + every_second<lanes, 1>(a, b, sequence);
    sum = sum + every_second<lanes, 0>(c, d, sequence);
    store<lanes>(y, sum + every_second<lanes, 1>(c, d, sequence));
  }

  template <int lanes, int registers>
  static NEUROCUDA_INLINE void run(const Band& given) {
    const Band job = given;  // a copy, which no store can change
    const float* upper = job.x + job.top * job.pitch;
    float* y = job.y;
    for (std::int64_t row = 0; row < job.count; ++row, y += job.columns.out, upper += 2 * job.pitch) {
      const float* lower = upper + job.pitch;
      std::int64_t at = 0;
      for (; at + lanes <= job.columns.out; at += lanes)
        columns<lanes>(upper + 2 * at, lower + 2 * at, y + at);
      if (at < job.columns.out && at > 0) {  // the last ones, some of them again
        at = job.columns.out - lanes;
        columns<lanes>(upper + 2 * at, lower + 2 * at, y + at);
        continue;
      }
      for (; at < job.columns.out; ++at)
        y[at] = 0.0f + upper[2 * at] + upper[2 * at + 1] + lower[2 * at] + lower[2 * at + 1];
    }
  }
};

// Channels last: lanes are channels.
struct Pixels {
  template <int lanes>
  static NEUROCUDA_INLINE void sum(const Band& job, Range rows, Range columns, std::int64_t channel,
                                   float* y) {
    Vector<lanes> sum = {};
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      const float* x = job.x + row * job.pitch + columns.begin * job.inner + channel;
      for (std::int64_t column = columns.begin; column < columns.end; ++column, x += job.inner)
        sum = sum + load<lanes>(x);
    }
    store<lanes>(y + channel, sum);
  }

  template <int lanes, int registers>
  static NEUROCUDA_INLINE void run(const Band& given) {
    const Band job = given;
    float* y = job.y;
    for (std::int64_t row = 0; row < job.count; ++row) {
      const Range rows = inside(job.rows, job.top + row * job.rows.stride);
      for (std::int64_t column = 0; column < job.columns.out; ++column, y += job.inner) {
        const Range columns = inside(job.columns, column * job.columns.stride - job.columns.pad);
        std::int64_t channel = 0;
        for (; channel + lanes <= job.inner; channel += lanes) sum<lanes>(job, rows, columns, channel, y);
        for (; channel < job.inner; ++channel) sum<1>(job, rows, columns, channel, y);
      }
    }
  }
};

// Lanes are columns, every `stride`-th of them; rows have their zeros around them, and vectors reach beyond.
template <int stride>
struct Columns {
  template <int lanes>
  static NEUROCUDA_INLINE Vector<lanes> read(const float* x) {
    if constexpr (stride == 1)
      return load<lanes>(x);
    else
      return every_second<lanes, 0>(load<lanes>(x), load<lanes>(x + lanes),
                                    std::make_index_sequence<lanes>());
  }

  template <int lanes, int registers>
  static NEUROCUDA_INLINE void run(const Band& given) {
    const Band job = given;
    float* y = job.y;
    for (std::int64_t row = 0; row < job.count; ++row, y += job.columns.out) {
      const Range rows = inside(job.rows, job.top + row * job.rows.stride);
      for (std::int64_t at = 0; at < job.columns.out; at += lanes) {
        Vector<lanes> sum = {};
        for (std::int64_t r = rows.begin; r < rows.end; ++r) {
          const float* x = job.x + r * job.pitch + at * stride;
          for (std::int64_t k = 0; k < job.columns.kernel; ++k) sum = sum + read<lanes>(x + k);
        }
        store_some<lanes>(y + at, sum, job.columns.out - at);
      }
    }
  }
};

// Any windows, one after the other; rows have their zeros around them.
void sum_windows(const Band& job) {
  float* y = job.y;
  for (std::int64_t row = 0; row < job.count; ++row) {
    const Range rows = inside(job.rows, job.top + row * job.rows.stride);
    for (std::int64_t column = 0; column < job.columns.out; ++column) {
      float sum = 0.0f;
      for (std::int64_t r = rows.begin; r < rows.end; ++r) {
        const float* x = job.x + r * job.pitch + column * job.columns.stride;
        for (std::int64_t k = 0; k < job.columns.kernel; ++k) sum += x[k];
      }
      *y++ = sum;
    }
  }
}

struct Divide {
  NEUROCUDA_INLINE static void run(float* values, std::int64_t count, float by) {
    for (std::int64_t k = 0; k < count; ++k) values[k] /= by;
  }
};

void divide(float* values, std::int64_t count, float by) { run_version<Divide>(values, count, by); }

// The widest vectors that `count` elements fill.
std::int64_t width_for(std::int64_t count) { return count >= 16 ? 16 : count >= 8 ? 8 : 4; }

enum class Method { kPixels, kQuarters, kColumns, kWindows };

Method method_for(const Pool2d& job) {
  const auto halves = [](const PoolAxis& axis) {
    return axis.kernel == 2 && axis.stride == 2 && axis.pad == 0;
  };
  if (job.inner > 1) return Method::kPixels;
  if (halves(job.rows) && halves(job.columns)) return Method::kQuarters;
  return job.columns.stride <= 2 && job.columns.out >= 4 ? Method::kColumns : Method::kWindows;
}

void pool_band(Method method, const Band& job) {
  const std::int64_t width = width_for(job.columns.out);
  switch (method) {
    case Method::kPixels:
      return run_best<Pixels>(job, width_for(job.inner));
    case Method::kQuarters:
      return run_best<Quarters>(job, width);
    case Method::kColumns:
      return job.columns.stride == 1 ? run_best<Columns<1>>(job, width) : run_best<Columns<2>>(job, width);
    case Method::kWindows:
      return sum_windows(job);
  }
}

// Rows as float32, `pad` columns further to the right.
void copy_rows(const char* x, Element type, std::int64_t rows, std::int64_t width, std::int64_t pad,
               float* to) {
  if (pad == 0) return read_elements(type, x, rows * width, to);
  for (std::int64_t row = 0; row < rows; ++row)
    read_elements(type, x + row * width * size_of(type), width, to + row * (width + 2 * pad) + pad);
}

}  // namespace

void pool2d(const Pool2d& given, std::int64_t first, std::int64_t last) {
  const KeepSubnormals keep;
  Pool2d job = given;
  PoolAxis& rows = job.rows;
  if (rows.pad == 0 && rows.kernel == rows.stride && rows.out * rows.stride == rows.in) {
    rows.in *= job.planes;  // windows go on from plane to plane as they do within one
    rows.out *= job.planes;
  }
  const Method method = method_for(job);
  const std::int64_t width = job.columns.in * job.inner, out_width = job.columns.out * job.inner;
  const std::int64_t pad = method == Method::kPixels ? 0 : job.columns.pad, pitch = width + 2 * pad;
  const bool copied = job.type != Element::kFloat32 || pad > 0 || method == Method::kColumns;
  const std::int64_t fitting = (kChunk / std::max<std::int64_t>(1, pitch) - rows.kernel) / rows.stride + 1;
  const std::int64_t most = copied ? std::max<std::int64_t>(1, fitting) : last - first;
  std::vector<float> copy;  // zeros where nothing is copied to
  while (first < last) {
    const std::int64_t plane = first / rows.out, row = first % rows.out;
    const std::int64_t count = std::min({last - first, rows.out - row, most});
    const std::int64_t top = row * rows.stride - rows.pad;
    const Range read{std::max<std::int64_t>(0, top),
                     std::min(rows.in, top + (count - 1) * rows.stride + rows.kernel)};
    const char* x = job.x + plane * rows.in * width * size_of(job.type);
    Band band{reinterpret_cast<const float*>(x),
              job.y + first * out_width,
              pitch,
              job.inner,
              top,
              count,
              rows,
              job.columns};
    if (copied && read.begin < read.end) {
      const std::int64_t there = read.end - read.begin;
      const std::size_t size = there * pitch + 2 * kWidest;
      if (copy.size() < size) copy.resize(size);
      copy_rows(x + read.begin * width * size_of(job.type), job.type, there, width, pad, copy.data());
      band.x = copy.data();
      band.top -= read.begin;
      band.rows.in = there;
    }
    pool_band(method, band);
    if (job.area != 1.0f) divide(band.y, count * out_width, job.area);
    first += count;
  }
}

}  // namespace neurocuda::cpu
