// Convolutions, each output summed in ascending order of input channel, kernel row, kernel column: the layer
// of ordered_sum.cuh. A row is an output position of a frame, a column an output channel of a group, a term
// an input channel and kernel element, a matrix a group of channels.
//
// Many rows use event_tiles.cuh if at most half of the inputs are nonzero: spike_bits.cuh counts them on the
// device and the kernel branches on the count, without synchronizing with the host.
#pragma once

#include "cuda/event_tiles.cuh"
#include "cuda/ordered_sum.cuh"
#include "cuda/spike_bits.cuh"
#include "params/ordered_conv.h"

namespace neurocuda::cuda {

// A ConvAxis as 32-bit integers; the operator refuses larger sizes.
struct DeviceAxis {
  int in, out, kernel, stride, pad, dilation;
  explicit DeviceAxis(const ConvAxis& axis)
      : in(static_cast<int>(axis.in)),
        out(static_cast<int>(axis.out)),
        kernel(static_cast<int>(axis.kernel)),
        stride(static_cast<int>(axis.stride)),
        pad(static_cast<int>(axis.pad)),
        dilation(static_cast<int>(axis.dilation)) {}
};

template <class Shape>
union ConvMemory {
  TileMemory<Shape> tiles;
  EventMemory<Shape> events;
};

template <class X>
struct ConvLayer {
  using Value = X;
  static constexpr bool kRowsFirst = true;
  template <class Shape>
  using Memory = ConvMemory<Shape>;

  std::int64_t rows, columns, terms, matrices, padded, column_stride;
  const float* prepacked;
  const float* bias;
  Route route;
  const Value* x;  // [frames, matrices * channels, down.in, across.in]
  float* y;        // [frames, matrices * columns, down.out, across.out]
  std::int64_t positions, plane;
  int channels;  // per group
  DeviceAxis down, across;
  SpikeBits spikes;
  unsigned long long max_spikes;  // up to which event_tiles is used

  explicit ConvLayer(const OrderedConv& params)
      : rows(params.frames * params.rows.out * params.columns.out),
        columns(params.out / params.groups),
        terms(params.in / params.groups * params.rows.kernel * params.columns.kernel),
        matrices(params.groups),
        padded(padded_features(columns)),
        column_stride(params.rows.out * params.columns.out),
        prepacked(params.prepacked),
        bias(params.bias),
        route(params.route),
        x(static_cast<const Value*>(params.x)),
        y(params.y),
        positions(params.rows.out * params.columns.out),
        plane(params.rows.in * params.columns.in),
        channels(static_cast<int>(params.in / params.groups)),
        down(params.rows),
        across(params.columns),
        spikes(spike_bits_of(params)),
        max_spikes(params.route == Route::kEvents ? ~0ull : params.frames * params.in * plane / 2) {}

  // The inputs of an output position, from its top left corner, which may be in the padding.
  struct Window {
    const Value* frame;  // from the first channel of the group
    int top, left;
  };
  __device__ __forceinline__ Window window(std::int64_t matrix, std::int64_t row) const {
    const std::int64_t frame = row / positions, position = row % positions;
    return {x + (frame * matrices + matrix) * channels * plane,
            static_cast<int>(position / across.out) * down.stride - down.pad,
            static_cast<int>(position % across.out) * across.stride - across.pad};
  }
  __device__ __forceinline__ Value read(const Window& at, int channel, int kernel_row,
                                        int kernel_column) const {
    const int row = at.top + kernel_row * down.dilation, column = at.left + kernel_column * across.dilation;
    const bool inside = static_cast<unsigned>(row) < static_cast<unsigned>(down.in) &&
                        static_cast<unsigned>(column) < static_cast<unsigned>(across.in);
    if (!inside) return Value(0);
    return at.frame[channel * plane + static_cast<std::int64_t>(row) * across.in + column];
  }
  __device__ __forceinline__ float value(std::int64_t matrix, std::int64_t row, std::int64_t term) const {
    const std::int64_t line = term / across.kernel;
    return static_cast<float>(read(window(matrix, row), static_cast<int>(line / down.kernel),
                                   static_cast<int>(line % down.kernel),
                                   static_cast<int>(term % across.kernel)));
  }
  // Indices into x: of the first input of a window, and the offset from there to the input of a term.
  __device__ __forceinline__ std::int64_t first_input(std::int64_t matrix, std::int64_t row) const {
    const Window at = window(matrix, row);
    return at.frame - x + static_cast<std::int64_t>(at.top) * across.in + at.left;
  }
  __device__ __forceinline__ int offset(int channel, int kernel_row, int kernel_column) const {
    return (channel * down.in + kernel_row * down.dilation) * across.in + kernel_column * across.dilation;
  }
  __device__ __forceinline__ float* y_row(std::int64_t matrix, std::int64_t row) const {
    const std::int64_t frame = row / positions, position = row % positions;
    return y + (frame * matrices + matrix) * columns * positions + position;
  }

  // The lanes of a warp are neighbouring output positions. A thread keeps its position and increments
  // channel, kernel row and kernel column without divisions.
  template <class Shape>
  class Tile {
   public:
    __device__ Tile(const ConvLayer& layer, std::int64_t matrix, std::int64_t first_row)
        : layer_(layer), window_{nullptr, 0, 0}, channel_(layer.channels), kernel_row_(0), kernel_column_(0) {
      const int row = static_cast<int>(threadIdx.x) % Shape::kRows;
      const int width = layer.across.kernel, height = layer.down.kernel;
      columns_ = kTermStride % width;
      rows_ = kTermStride / width % height;
      channels_ = kTermStride / width / height;
      if (first_row + row >= layer.rows) return;  // reads only zeros
      window_ = layer.window(matrix, first_row + row);
      const int first = static_cast<int>(threadIdx.x) / Shape::kRows;
      kernel_column_ = first % width;
      kernel_row_ = first / width % height;
      channel_ = first / width / height;
    }

    __device__ __forceinline__ void load(Value (&to)[Shape::kLoads]) {
#pragma unroll
      for (int n = 0; n < Shape::kLoads; ++n) {
        to[n] = channel_ < layer_.channels ? layer_.read(window_, channel_, kernel_row_, kernel_column_)
                                           : Value(0);
        advance();
      }
    }

    __device__ __forceinline__ void put(const Value (&from)[Shape::kLoads],
                                        float (&x)[kTerms][Shape::kRows + 1], unsigned* masks) const {
      const int row = static_cast<int>(threadIdx.x) % Shape::kRows;
      const int first = static_cast<int>(threadIdx.x) / Shape::kRows;
      unsigned mask = 0;
#pragma unroll
      for (int n = 0; n < Shape::kLoads; ++n) {
        const float value = static_cast<float>(from[n]);
        x[first + n * kTermStride][row] = value;
        mask |= static_cast<unsigned>(value != 0.0f) << (first + n * kTermStride);
      }
      if (mask != 0) atomicAdd(masks + row, mask);  // no two threads have the same bit
    }

   private:
    static constexpr int kTermStride = kTileThreads / Shape::kRows;

    __device__ __forceinline__ void advance() {
      kernel_column_ += columns_;
      int carry = kernel_column_ >= layer_.across.kernel;
      kernel_column_ -= carry ? layer_.across.kernel : 0;
      kernel_row_ += rows_ + carry;
      carry = kernel_row_ >= layer_.down.kernel;
      kernel_row_ -= carry ? layer_.down.kernel : 0;
      if (channel_ < layer_.channels) channel_ += channels_ + carry;
    }

    const ConvLayer& layer_;
    Window window_;
    int channel_, kernel_row_, kernel_column_;
    int channels_, rows_, columns_;  // the increment, of kTermStride terms in all
  };
};

template <class Shape, class X>
__device__ void sum_tiles(const ConvLayer<X>& layer, ConvMemory<Shape>& memory) {
  const SpikesFound* found = layer.spikes.found;
  if (found == nullptr || found->spikes > layer.max_spikes) {
    sum_tiles<Shape>(layer, memory.tiles);
  } else if (found->other == 0) {
    event_tiles<true, Shape>(layer, memory.events);
  } else {
    event_tiles<false, Shape>(layer, memory.events);
  }
}

template <class X>
void launch_conv(const OrderedConv& params, Stream stream) {
  const ConvLayer<X> layer(params);
  if (layer.spikes.found != nullptr) launch_spike_bits<X>(params, layer.spikes, layer.max_spikes, stream);
  launch_ordered(layer, stream);
}

}  // namespace neurocuda::cuda
