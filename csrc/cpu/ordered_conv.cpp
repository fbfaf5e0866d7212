#include "cpu/ordered_conv.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <vector>

#include "cpu/denormals.h"
#include "cpu/ordered_linear.h"
#include "cpu/spike_list.h"
#include "cpu/vector.h"

namespace neurocuda::cpu {

namespace {

constexpr int kTile = 4;     // output channels that a dense block computes at once
constexpr int kWidest = 16;  // lanes of the widest vector

// ---- Every term. Lanes are output positions, so that any stride, dilation and group keeps them busy: the
// input is copied with its zeros around it, and by the remainder of each axis by its stride, so that the
// inputs of neighbouring outputs are neighbours.

// The columns of a row of inputs with one remainder by the stride, among those of the padded row.
struct Copy {
  std::int64_t from, to, count;
};

struct DenseShape {
  std::int64_t height, pitch;  // rows and columns of one remainder of a padded channel
  std::int64_t channel;        // floats of a padded channel
  std::int64_t vectors;        // of one output channel
  std::int64_t row_vectors;    // of one output row; 0: vectors run on from row to row
  std::int64_t width;          // floats of `sums` for one output channel

  DenseShape(const OrderedConv& layer, int lanes) {
    const ConvAxis &rows = layer.rows, &columns = layer.columns;
    const auto extent = [](const ConvAxis& axis) {  // elements that outputs read, by remainder
      const std::int64_t reach = (axis.out - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
      return (reach + axis.stride - 1) / axis.stride;
    };
    height = extent(rows), pitch = extent(columns);
    channel = rows.stride * columns.stride * height * pitch;
    const std::int64_t by_row = rows.out * ((columns.out + lanes - 1) / lanes);
    const std::int64_t run_on = ((rows.out - 1) * pitch + columns.out + lanes - 1) / lanes;
    row_vectors = by_row <= run_on ? (columns.out + lanes - 1) / lanes : 0;
    vectors = std::min(by_row, run_on);
    width = vectors * lanes;
  }
};

struct DensePlan : DenseShape {
  std::vector<std::int64_t> taps;    // offsets in a channel of the terms of output 0, by kernel element
  std::vector<std::int64_t> starts;  // where a vector of outputs starts, in a channel
  std::vector<Copy> copies;          // of an input row, one for each remainder of its columns
  std::vector<float> input, sums;

  DensePlan(const OrderedConv& layer, const DenseShape& shape, int lanes) : DenseShape(shape) {
    const ConvAxis &rows = layer.rows, &columns = layer.columns;
    for (std::int64_t y = 0; y < rows.kernel; ++y) {
      for (std::int64_t x = 0; x < columns.kernel; ++x) {
        const std::int64_t at_y = y * rows.dilation, at_x = x * columns.dilation;
        const std::int64_t remainder = at_y % rows.stride * columns.stride + at_x % columns.stride;
        taps.push_back((remainder * height + at_y / rows.stride) * pitch + at_x / columns.stride);
      }
    }
    for (std::int64_t remainder = 0; remainder < columns.stride; ++remainder) {
      // Element n of the padded row is column n * stride - behind.
      const std::int64_t behind = columns.pad - remainder;
      const std::int64_t first = std::max<std::int64_t>(0, (behind + columns.stride - 1) / columns.stride);
      const std::int64_t end = std::min(
          pitch, std::max<std::int64_t>(0, columns.in + behind + columns.stride - 1) / columns.stride);
      copies.push_back({first * columns.stride - behind, remainder * height * pitch + first,
                        std::max<std::int64_t>(0, end - first)});
    }
    for (std::int64_t v = 0; v < vectors; ++v)
      starts.push_back(row_vectors ? v / row_vectors * pitch + v % row_vectors * lanes : v * lanes);
    // Vectors reach beyond the last output.
    input.assign(layer.in / layer.groups * channel + kWidest * 2, 0.0f);
    sums.resize(kTile * width);
  }
};

struct Dense {
  const float* input;
  const float* weight;  // of kTile output channels, at [input channel][tap]
  std::int64_t step;    // floats from one tap to the next
  std::int64_t channels, channel, taps, vectors, width;
  const std::int64_t* tap;
  const std::int64_t* start;
  float* sums;

  template <int lanes, int vectors_at_once>
  NEUROCUDA_INLINE void blocks(std::int64_t& v) const {
    for (; v + vectors_at_once <= vectors; v += vectors_at_once) {
      Vector<lanes> sum[kTile][vectors_at_once] = {};
      const float* at[vectors_at_once];
      for (int n = 0; n < vectors_at_once; ++n) at[n] = input + start[v + n];
      const float* w = weight;
      for (std::int64_t c = 0; c < channels; ++c) {
        for (std::int64_t t = 0; t < taps; ++t, w += step) {
          const std::int64_t offset = c * channel + tap[t];
          Vector<lanes> x[vectors_at_once];
#pragma GCC unroll 8
          for (int n = 0; n < vectors_at_once; ++n) x[n] = load<lanes>(at[n] + offset);
#pragma GCC unroll 8
          for (int o = 0; o < kTile; ++o) {
#pragma GCC unroll 8
            for (int n = 0; n < vectors_at_once; ++n) sum[o][n] = sum[o][n] + x[n] * w[o];
          }
        }
      }
#pragma GCC unroll 8
      for (int o = 0; o < kTile; ++o) {
#pragma GCC unroll 8
        for (int n = 0; n < vectors_at_once; ++n) store<lanes>(sums + o * width + (v + n) * lanes, sum[o][n]);
      }
    }
  }

  template <int lanes, int registers>
  static NEUROCUDA_INLINE void run(const Dense& job) {
    std::int64_t v = 0;
    if constexpr (registers >= 32) job.blocks<lanes, 4>(v);
    job.blocks<lanes, 2>(v);
    job.blocks<lanes, 1>(v);
  }
};

NEUROCUDA_INLINE void copy_row(const float* from, std::int64_t count, float* to) {
  std::memcpy(to, from, count * sizeof(float));
}

NEUROCUDA_INLINE void copy_row(const std::uint8_t* from, std::int64_t count, float* to) {
  for (std::int64_t n = 0; n < count; ++n) to[n] = float(from[n]);
}

template <typename Value>
void copy_padded(const OrderedConv& layer, const Value* x, DensePlan& plan) {
  const ConvAxis &rows = layer.rows, &columns = layer.columns;
  for (std::int64_t c = 0; c < layer.in / layer.groups; ++c) {
    for (std::int64_t y = 0; y < rows.in; ++y, x += columns.in) {
      const std::int64_t at = y + rows.pad;
      if (at / rows.stride >= plan.height) continue;
      float* to = plan.input.data() + c * plan.channel +
                  (at % rows.stride * columns.stride * plan.height + at / rows.stride) * plan.pitch;
      for (const Copy& copy : plan.copies) {
        if (columns.stride == 1) {
          copy_row(x + copy.from, copy.count, to + copy.to);
        } else {
          const Value* from = x + copy.from;
          for (std::int64_t n = 0; n < copy.count; ++n) to[copy.to + n] = float(from[n * columns.stride]);
        }
      }
    }
  }
}

// The sums of some output channels to their places, with the bias.
void unload(const OrderedConv& layer, const DensePlan& plan, int lanes, std::int64_t channels,
            const float* bias, float* y) {
  const std::int64_t pitch = plan.row_vectors ? plan.row_vectors * lanes : plan.pitch;
  for (std::int64_t o = 0; o < channels; ++o) {
    const float* from = plan.sums.data() + o * plan.width;
    for (std::int64_t row = 0; row < layer.rows.out; ++row, from += pitch, y += layer.columns.out) {
      if (bias) {
        for (std::int64_t column = 0; column < layer.columns.out; ++column)
          y[column] = from[column] + bias[o];
      } else {
        std::copy(from, from + layer.columns.out, y);
      }
    }
  }
}

// ---- Only the terms whose input is not zero. An input position reaches the outputs of ascending kernel
// elements in descending order, so inputs in ascending order give each output its terms in the defined order.
// Lanes are output channels: sums are [position, channel].

struct Reach {
  std::int32_t output, tap;    // of the first kernel element that meets an output
  std::int32_t rows, columns;  // kernel elements that meet outputs
};

struct AxisReach {
  std::int64_t tap, output, count;
};

// Kernel elements tap, tap + tap_step, ... meet outputs output, output - output_step, ...
AxisReach reach_of(const ConvAxis& axis, std::int64_t position) {
  AxisReach reach{0, 0, 0};
  for (std::int64_t tap = 0; tap < axis.kernel; ++tap) {
    const std::int64_t at = position + axis.pad - tap * axis.dilation;
    if (at < 0 || at % axis.stride || at / axis.stride >= axis.out) continue;
    if (reach.count++ == 0) reach.tap = tap, reach.output = at / axis.stride;
  }
  return reach;
}

struct EventPlan {
  std::vector<Reach> reach;  // by input position
  AlignedFloats sums;        // [position, padded]
  std::vector<std::int32_t> events, starts;
  std::vector<float> values;

  EventPlan(const OrderedConv& layer, std::int64_t padded)
      : sums((layer.rows.out * layer.columns.out + kWidest) * padded) {
    std::vector<AxisReach> columns;
    for (std::int64_t x = 0; x < layer.columns.in; ++x) columns.push_back(reach_of(layer.columns, x));
    reach.reserve(layer.rows.in * layer.columns.in);
    for (std::int64_t y = 0; y < layer.rows.in; ++y) {
      const AxisReach row = reach_of(layer.rows, y);
      for (const AxisReach& column : columns) {
        const bool any = row.count && column.count;
        reach.push_back({std::int32_t(row.output * layer.columns.out + column.output),
                         std::int32_t(row.tap * layer.columns.kernel + column.tap),
                         std::int32_t(any ? row.count : 0), std::int32_t(column.count)});
      }
    }
    const std::int64_t channels = layer.in / layer.groups;
    events.resize(channels * std::int64_t(reach.size()) + kListSlack);
    values.resize(events.size());
    starts.resize(channels + 1);
  }
};

struct Scatter {
  const Reach* reach;
  const std::int32_t* event;  // positions in their channel
  const std::int32_t* start;  // of the events of a channel, and the end of the last
  const float* value;         // of events; null where all are 1
  std::int64_t channels, taps, padded;
  const float* weight;
  float* sums;
  std::int64_t tap_row, tap_column, output_row, output_column;  // floats from one kernel element to the next

  // `columns` kernel elements of each row that an input reaches; 0: as many as there are.
  template <int lanes, int vectors, int columns, bool ones>
  static NEUROCUDA_INLINE void add_event(const Scatter& job, const Reach& at, const float* w_row,
                                         float* sum_row, float value) {
    const std::int32_t count = columns ? columns : at.columns;
    const std::int64_t width = vectors ? vectors * lanes : job.padded;
    for (std::int32_t row = 0; row < at.rows; ++row, w_row += job.tap_row, sum_row -= job.output_row) {
      const float* w = w_row;
      float* sum = sum_row;
#pragma GCC unroll 4
      for (std::int32_t column = 0; column < count; ++column, w += job.tap_column, sum -= job.output_column) {
#pragma GCC unroll 4
        for (std::int64_t lane = 0; lane < width; lane += lanes) {
          if constexpr (ones)
            store<lanes>(sum + lane, load<lanes>(sum + lane) + load<lanes>(w + lane));
          else
            store<lanes>(sum + lane, load<lanes>(sum + lane) + load<lanes>(w + lane) * value);
        }
      }
    }
  }

  template <int lanes, int vectors, bool ones>
  static NEUROCUDA_INLINE void add_all(const Scatter job) {  // a copy, which no store of a sum can change
    for (std::int64_t c = 0; c < job.channels; ++c) {
      const float* of_channel = job.weight + c * job.taps * job.padded;
      const std::int32_t end = job.start[c + 1];
      for (std::int32_t n = job.start[c]; n < end; ++n) {
        const Reach at = job.reach[job.event[n]];
        const float* w = of_channel + at.tap * job.padded;
        float* sum = job.sums + at.output * job.padded;
        const float value = ones ? 1.0f : job.value[n];
        if (vectors && at.columns == 3)
          add_event<lanes, vectors, 3, ones>(job, at, w, sum, value);
        else if (vectors && at.columns == 2)
          add_event<lanes, vectors, 2, ones>(job, at, w, sum, value);
        else
          add_event<lanes, vectors, 0, ones>(job, at, w, sum, value);
      }
    }
  }

  template <int lanes, int registers>
  static NEUROCUDA_INLINE void run(const Scatter& job) {
    if (lanes == 16 && job.padded == lanes)
      job.value ? add_all<8, 2, false>(job) : add_all<8, 2, true>(job);
    else if (job.padded == lanes)
      job.value ? add_all<lanes, 1, false>(job) : add_all<lanes, 1, true>(job);
    else
      job.value ? add_all<lanes, 0, false>(job) : add_all<lanes, 0, true>(job);
  }
};

// [position, padded] sums to [channel, position], with the bias.
struct Gather {
  const float* sums;
  const float* bias;
  float* y;
  std::int64_t positions, channels, padded;

  template <int lanes, int registers>
  static NEUROCUDA_INLINE void run(const Gather& given) {
    const Gather job = given;  // a copy, which no store can change
    for (std::int64_t channel = 0; channel < job.channels; channel += lanes) {
      const std::int64_t real = std::min<std::int64_t>(lanes, job.channels - channel);
      for (std::int64_t position = 0; position < job.positions; position += lanes) {
        Vector<lanes> square[lanes];
#pragma GCC unroll 16
        for (int n = 0; n < lanes; ++n)
          square[n] = load<lanes>(job.sums + (position + n) * job.padded + channel);
        transpose<lanes>(square);
        float* y = job.y + channel * job.positions + position;
        const std::int64_t count = job.positions - position;
#pragma GCC unroll 16
        for (int n = 0; n < lanes; ++n) {
          if (n >= real) break;
          if (job.bias) square[n] = square[n] + job.bias[channel + n];
          store_some<lanes>(y + n * job.positions, square[n], count);
        }
      }
    }
  }
};

template <typename Value>
class Frames {
 public:
  explicit Frames(const OrderedConv& layer)
      : layer_(layer),
        channels_(layer.in / layer.groups),
        outputs_(layer.out / layer.groups),
        taps_(layer.rows.kernel * layer.columns.kernel),
        padded_(padded_features(outputs_)),
        lanes_(kInstructions == Instructions::kAvx512 ? 16
               : kInstructions == Instructions::kAvx2 ? 8
                                                      : 4),
        shape_(layer, lanes_),
        events_(layer, padded_) {
    // In cycles, roughly.
    const std::int64_t tiles = (outputs_ + kTile - 1) / kTile;
    dense_cost_ = 1.2 * double(channels_) * taps_ * shape_.width / 16 * tiles * kTile;
    const double vectors = double(padded_) / 16;
    reached_cost_ = 10 + double(taps_) / (layer.rows.stride * layer.columns.stride) * 3.5 * vectors;
    unload_cost_ = double(layer.rows.out * layer.columns.out) * vectors * 3;
  }

  void run(std::int64_t frame) {
    const std::int64_t plane = layer_.rows.in * layer_.columns.in;
    const std::int64_t positions = layer_.rows.out * layer_.columns.out;
    for (std::int64_t group = 0; group < layer_.groups; ++group) {
      const Value* x = static_cast<const Value*>(layer_.x) + (frame * layer_.in + group * channels_) * plane;
      const std::int64_t first = group * outputs_;
      float* y = layer_.y + (frame * layer_.out + first) * positions;
      const float* weight = layer_.prepacked + group * channels_ * taps_ * padded_;
      const float* bias = layer_.bias ? layer_.bias + first : nullptr;
      if (layer_.route == Route::kDense || !few_events(x, plane))
        dense(x, weight, bias, y);
      else
        events(x, weight, bias, y);
    }
  }

 private:
  bool few_events(const Value* x, std::int64_t plane) {
    std::int32_t* to = events_.events.data();
    for (std::int64_t c = 0; c < channels_; ++c) {
      events_.starts[c] = std::int32_t(to - events_.events.data());
      to = append_nonzero(x + c * plane, plane, 0, to);
    }
    const std::int64_t count = to - events_.events.data();
    events_.starts[channels_] = std::int32_t(count);
    return layer_.route == Route::kEvents || double(count) * reached_cost_ + unload_cost_ < dense_cost_;
  }

  void dense(const Value* x, const float* weight, const float* bias, float* y) {
    if (!dense_) dense_.emplace(layer_, shape_, lanes_);
    copy_padded(layer_, x, *dense_);
    for (std::int64_t o = 0; o < outputs_; o += kTile) {
      run_best<Dense>(
          Dense{dense_->input.data(), weight + o, padded_, channels_, dense_->channel, taps_, dense_->vectors,
                dense_->width, dense_->taps.data(), dense_->starts.data(), dense_->sums.data()},
          lanes_);
      unload(layer_, *dense_, lanes_, std::min<std::int64_t>(kTile, outputs_ - o), bias ? bias + o : nullptr,
             y + o * layer_.rows.out * layer_.columns.out);
    }
  }

  void events(const Value* x, const float* weight, const float* bias, float* y) {
    const std::int64_t plane = layer_.rows.in * layer_.columns.in;
    bool ones = true;
    for (std::int64_t c = 0; c < channels_; ++c, x += plane) {
      for (std::int32_t n = events_.starts[c]; n < events_.starts[c + 1]; ++n) {
        events_.values[n] = float(x[events_.events[n]]);
        ones &= events_.values[n] == 1.0f;
      }
    }
    events_.sums.clear();
    const ConvAxis &rows = layer_.rows, &columns = layer_.columns;
    const auto steps = [](const ConvAxis& axis) { return std::gcd(axis.stride, axis.dilation); };
    run_best<Scatter>(Scatter{events_.reach.data(), events_.events.data(), events_.starts.data(),
                              ones ? nullptr : events_.values.data(), channels_, taps_, padded_, weight,
                              events_.sums.data(), rows.stride / steps(rows) * columns.kernel * padded_,
                              columns.stride / steps(columns) * padded_,
                              rows.dilation / steps(rows) * columns.out * padded_,
                              columns.dilation / steps(columns) * padded_},
                      padded_);
    run_best<Gather>(Gather{events_.sums.data(), bias, y, rows.out * columns.out, outputs_, padded_},
                     padded_);
  }

  const OrderedConv& layer_;
  std::int64_t channels_, outputs_, taps_, padded_;  // of one group
  int lanes_;
  DenseShape shape_;
  std::optional<DensePlan> dense_;  // made when a frame needs it: single steps seldom do
  EventPlan events_;
  double dense_cost_, reached_cost_, unload_cost_;
};

template <typename Value>
void run_frames(const OrderedConv& layer, std::int64_t begin, std::int64_t end) {
  Frames<Value> frames(layer);
  for (std::int64_t frame = begin; frame < end; ++frame) frames.run(frame);
}

}  // namespace

void ordered_conv(const OrderedConv& layer, std::int64_t begin, std::int64_t end) {
  const KeepSubnormals keep;
  if (layer.bytes)
    run_frames<std::uint8_t>(layer, begin, end);
  else
    run_frames<float>(layer, begin, end);
}

}  // namespace neurocuda::cpu
