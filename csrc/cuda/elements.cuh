// Loads and stores elements of signals as float32: one element, or several neighbours in one access.
#pragma once

#include "cuda/device.cuh"
#include "params/elements.h"

namespace neurocuda::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;  // mask of all lanes

// The bits of `width` neighbouring elements, loaded in one access of at most 16 bytes. They are converted to
// float32 only at their use, so that many loads can be in flight.
template <int width>
struct Raw {
  static_assert(width == 1 || width == 4 || width == 8, "one element, or 16 bytes of float32 or float16");
  std::uint32_t words[width == 1 ? 1 : 4];
};

template <int bytes, int width>
__device__ __forceinline__ void load_bytes(const char* from, Raw<width>& to) {
  static_assert(bytes <= 4 * width && bytes <= 16, "they fit");
  NEUROCUDA_LOADS(bytes);
  if constexpr (bytes == 16) {
    const uint4 value = *reinterpret_cast<const uint4*>(from);
    to.words[0] = value.x;
    to.words[1] = value.y;
    to.words[2] = value.z;
    to.words[3] = value.w;
  } else if constexpr (bytes == 8) {
    const uint2 value = *reinterpret_cast<const uint2*>(from);
    to = Raw<width>{{value.x, value.y}};  // all words: otherwise nvcc does not keep `to` in registers
  } else if constexpr (bytes == 4) {
    to.words[0] = *reinterpret_cast<const std::uint32_t*>(from);
  } else if constexpr (bytes == 2) {
    to.words[0] = *reinterpret_cast<const std::uint16_t*>(from);
  } else {
    to.words[0] = *reinterpret_cast<const std::uint8_t*>(from);
  }
}

// At most four elements of float32.
template <int width>
__device__ __forceinline__ void load(Element type, const char* from, Raw<width>& to) {
  switch (size_of(type)) {
    case 4:
      if constexpr (width <= 4) load_bytes<4 * width>(from, to);
      break;
    case 2:
      load_bytes<2 * width>(from, to);
      break;
    default:
      load_bytes<width>(from, to);
  }
}

template <int width>
__device__ __forceinline__ std::uint32_t half_word(const Raw<width>& raw, int k) {
  return k % 2 == 0 ? raw.words[k / 2] & 0xffffu : raw.words[k / 2] >> 16;
}

template <int width>
__device__ __forceinline__ std::uint32_t byte(const Raw<width>& raw, int k) {
  return raw.words[k / 4] >> (8 * (k % 4)) & 0xffu;
}

// Converts to float32: to[k] = element k, or to[k] += element k.
template <int width>
__device__ __forceinline__ void convert(Element type, const Raw<width>& raw, bool accumulate,
                                        float (&to)[width]) {
  float values[width] = {};
  switch (type) {
    case Element::kFloat32:
      if constexpr (width <= 4) {
#pragma unroll
        for (int k = 0; k < width; ++k) values[k] = __uint_as_float(raw.words[k]);
      }
      break;
    case Element::kFloat16:
#pragma unroll
      for (int k = 0; k < width; ++k) values[k] = __half2float(__ushort_as_half(half_word(raw, k)));
      break;
    case Element::kBFloat16:
#pragma unroll
      for (int k = 0; k < width; ++k) values[k] = __uint_as_float(half_word(raw, k) << 16);
      break;
    case Element::kUInt8:
#pragma unroll
      for (int k = 0; k < width; ++k) values[k] = static_cast<float>(byte(raw, k));
      break;
    case Element::kBool:
#pragma unroll
      for (int k = 0; k < width; ++k) values[k] = byte(raw, k) != 0 ? 1.0f : 0.0f;
      break;
  }
#pragma unroll
  for (int k = 0; k < width; ++k) to[k] = accumulate ? add(to[k], values[k]) : values[k];
}

// Loads float32; more than 16 bytes in several accesses.
template <int width>
__device__ __forceinline__ void load_floats(const char* from, float (&to)[width]) {
  constexpr int part = width == 1 ? 1 : 4;
#pragma unroll
  for (int first = 0; first < width; first += part) {
    Raw<part> raw;
    load_bytes<4 * part>(from + 4 * first, raw);
#pragma unroll
    for (int k = 0; k < part; ++k) to[first + k] = __uint_as_float(raw.words[k]);
  }
}

template <int width>
__device__ __forceinline__ void store_floats(const float (&from)[width], char* to) {
  NEUROCUDA_STORES(4 * width);
  if constexpr (width == 1) {
    *reinterpret_cast<float*>(to) = from[0];
  } else {
#pragma unroll
    for (int k = 0; k < width; k += 4) {
      *reinterpret_cast<float4*>(to + 4 * k) = make_float4(from[k], from[k + 1], from[k + 2], from[k + 3]);
    }
  }
}

template <int bytes>
__device__ __forceinline__ void store_bytes(const std::uint32_t* words, char* to) {
  NEUROCUDA_STORES(bytes);
  if constexpr (bytes == 16) {
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  } else if constexpr (bytes == 8) {
    *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
  } else if constexpr (bytes == 4) {
    *reinterpret_cast<std::uint32_t*>(to) = words[0];
  } else if constexpr (bytes == 2) {
    *reinterpret_cast<std::uint16_t*>(to) = static_cast<std::uint16_t>(words[0]);
  } else {
    *reinterpret_cast<std::uint8_t*>(to) = static_cast<std::uint8_t>(words[0]);
  }
}

// A spike count as uint8: at most 255; NaN is 0. The conversion saturates and is defined for NaN; a
// comparison with zero is not safe, as nvcc removes it where the count was compared before.
__device__ __forceinline__ std::uint32_t spike_count(float value) {
  return min(__float2uint_rz(value), 255u);
}

// Stores float32 as `type`: rounded to nearest even; as bool, whether the value is not zero.
template <int width>
__device__ __forceinline__ void store(Element type, const float (&from)[width], char* to) {
  std::uint32_t words[width < 4 ? 1 : width / 2] = {};
  switch (type) {
    case Element::kFloat32:
      return store_floats<width>(from, to);
    case Element::kFloat16:
#pragma unroll
      for (int k = 0; k < width; ++k) {
        const std::uint32_t bits = __half_as_ushort(__float2half_rn(from[k]));
        words[k / 2] |= bits << (16 * (k % 2));
      }
      return store_bytes<2 * width>(words, to);
    case Element::kBFloat16:
#pragma unroll
      for (int k = 0; k < width; ++k) {
        const std::uint32_t bits = __bfloat16_as_ushort(__float2bfloat16_rn(from[k]));
        words[k / 2] |= bits << (16 * (k % 2));
      }
      return store_bytes<2 * width>(words, to);
    case Element::kUInt8:
#pragma unroll
      for (int k = 0; k < width; ++k) words[k / 4] |= spike_count(from[k]) << (8 * (k % 4));
      return store_bytes<width>(words, to);
    case Element::kBool:
#pragma unroll
      for (int k = 0; k < width; ++k) words[k / 4] |= static_cast<unsigned>(from[k] != 0.0f) << (8 * (k % 4));
      return store_bytes<width>(words, to);
  }
}

__device__ __forceinline__ void store_byte(unsigned bits, char* to) {
  const std::uint32_t word[1] = {bits & 0xffu};
  store_bytes<1>(word, to);
}

// Stores the spikes of `width` neighbouring neurons as bits of `row`, which starts with neuron 0. The threads
// of a warp have consecutive neurons, starting at a multiple of eight, and combine their bits to bytes. All
// threads of the warp must call it; those beyond the last neuron are not `valid`.
template <int width>
__device__ __forceinline__ void store_bits(const float (&spikes)[width], bool valid, std::int64_t neuron,
                                           char* row) {
  if constexpr (width == 1) {
    const unsigned ballot = __ballot_sync(kFullWarp, valid && spikes[0] != 0.0f);
    const unsigned lane = threadIdx.x % 32;
    if (valid && lane % 8 == 0) store_byte(ballot >> lane & 0xffu, row + neuron / 8);
  } else {
    unsigned bits = 0;  // the cast avoids a false report of gcc 12's UBSan on a shifted ?:
#pragma unroll
    for (int k = 0; k < width; ++k) bits |= static_cast<unsigned>(spikes[k] != 0.0f) << k;
    if constexpr (width == 4) bits |= __shfl_down_sync(kFullWarp, bits, 1) << 4;
    if (valid && neuron % 8 == 0) store_byte(bits, row + neuron / 8);
  }
}

}  // namespace neurocuda::cuda
