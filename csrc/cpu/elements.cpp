#include "cpu/elements.h"

#include <algorithm>
#include <cstring>

#include "cpu/multiversion.h"

namespace neurocuda::cpu {
namespace {

template <class To, class From>
NEUROCUDA_INLINE To as(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

struct Float32 {
  using Stored = float;
  NEUROCUDA_INLINE static float read(float value) { return value; }
  NEUROCUDA_INLINE static float write(float value) { return value; }
};

struct Float16 {
  using Stored = std::uint16_t;
  // The exponent is moved by a product with 2^112, which is exact, for subnormal numbers too.
  NEUROCUDA_INLINE static float read(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t rest = half & 0x7fffu;
    const std::uint32_t moved = as<std::uint32_t>(as<float>(rest << 13) * 0x1p112f);
    const std::uint32_t bits = rest >= 0x7c00u ? (rest << 13) | 0x7f800000u : moved;
    return as<float>(sign | bits);
  }
  NEUROCUDA_INLINE static std::uint16_t write(float value) {
    const std::uint32_t all = as<std::uint32_t>(value);
    const std::uint32_t sign = (all >> 16) & 0x8000u;
    const std::uint32_t bits = all & 0x7fffffffu;
    const std::uint32_t odd = (bits >> 13) & 1u;
    const std::uint32_t normal = (bits - (112u << 23) + 0xfffu + odd) >> 13;
    const std::uint32_t small = as<std::uint32_t>(as<float>(bits) + 0.5f) - 0x3f000000u;  // the sum rounds
    const std::uint32_t special = bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const std::uint32_t finite = bits < (113u << 23) ? small : normal;
    return static_cast<std::uint16_t>(sign | (bits >= (143u << 23) ? special : finite));
  }
};

struct BFloat16 {
  using Stored = std::uint16_t;
  NEUROCUDA_INLINE static float read(std::uint16_t value) {
    return as<float>(static_cast<std::uint32_t>(value) << 16);
  }
  NEUROCUDA_INLINE static std::uint16_t write(float value) {
    const std::uint32_t bits = as<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
  }
};

struct UInt8 {
  using Stored = std::uint8_t;
  NEUROCUDA_INLINE static float read(std::uint8_t value) { return static_cast<float>(value); }
  NEUROCUDA_INLINE static std::uint8_t write(float value) {
    const float above = value > 0.0f ? value : 0.0f;  // NaN is none
    return static_cast<std::uint8_t>(static_cast<std::int32_t>(above < 255.0f ? above : 255.0f));
  }
};

struct Bool {
  using Stored = std::uint8_t;
  NEUROCUDA_INLINE static float read(std::uint8_t value) { return value != 0 ? 1.0f : 0.0f; }
  NEUROCUDA_INLINE static std::uint8_t write(float value) { return value != 0.0f ? 1 : 0; }
};

template <class Type>
NEUROCUDA_INLINE void read(const void* from, std::int64_t count, float* to, const float* onto) {
  const auto* stored = static_cast<const typename Type::Stored*>(from);
  if (onto != nullptr) {
#pragma GCC ivdep  // element by element in place, if at all
    for (std::int64_t k = 0; k < count; ++k) to[k] = onto[k] + Type::read(stored[k]);
  } else {
#pragma GCC ivdep
    for (std::int64_t k = 0; k < count; ++k) to[k] = Type::read(stored[k]);
  }
}

template <class Type>
NEUROCUDA_INLINE void write(const float* from, std::int64_t count, void* to) {
  auto* __restrict stored = static_cast<typename Type::Stored*>(to);
  for (std::int64_t k = 0; k < count; ++k) stored[k] = Type::write(from[k]);
}

struct ReadElements {
  NEUROCUDA_INLINE static void run(Element type, const void* from, std::int64_t count, float* to,
                                   const float* onto) {
    switch (type) {
      case Element::kFloat32:
        return read<Float32>(from, count, to, onto);
      case Element::kFloat16:
        return read<Float16>(from, count, to, onto);
      case Element::kBFloat16:
        return read<BFloat16>(from, count, to, onto);
      case Element::kUInt8:
        return read<UInt8>(from, count, to, onto);
      case Element::kBool:
        return read<Bool>(from, count, to, onto);
    }
  }
};

}  // namespace

void read_elements(Element type, const void* from, std::int64_t count, float* to, const float* onto) {
  run_version<ReadElements>(type, from, count, to, onto);
}

namespace {

struct WriteElements {
  NEUROCUDA_INLINE static void run(Element type, const float* from, std::int64_t count, void* to) {
    switch (type) {
      case Element::kFloat32:
        return write<Float32>(from, count, to);
      case Element::kFloat16:
        return write<Float16>(from, count, to);
      case Element::kBFloat16:
        return write<BFloat16>(from, count, to);
      case Element::kUInt8:
        return write<UInt8>(from, count, to);
      case Element::kBool:
        return write<Bool>(from, count, to);
    }
  }
};

}  // namespace

void write_elements(Element type, const float* from, std::int64_t count, void* to) {
  run_version<WriteElements>(type, from, count, to);
}

namespace {

struct WriteBits {
  NEUROCUDA_INLINE static void run(const float* from, std::int64_t count, std::uint8_t* to) {
    const std::int64_t whole = count / 8;
    for (std::int64_t k = 0; k < whole; ++k) {
      unsigned bits = 0;
      for (int bit = 0; bit < 8; ++bit) bits |= (from[8 * k + bit] != 0.0f ? 1u : 0u) << bit;
      to[k] = static_cast<std::uint8_t>(bits);
    }
    if (count % 8 == 0) return;
    unsigned bits = 0;
    for (std::int64_t bit = 0; bit < count % 8; ++bit)
      bits |= (from[8 * whole + bit] != 0.0f ? 1u : 0u) << bit;
    to[whole] = static_cast<std::uint8_t>(bits);
  }
};

}  // namespace

void write_bits(const float* from, std::int64_t count, std::uint8_t* to) {
  run_version<WriteBits>(from, count, to);
}

namespace {

struct ReadBits {
  NEUROCUDA_INLINE static void run(const std::uint8_t* from, std::int64_t first, std::int64_t count,
                                   float* to) {
    const auto read = [&](std::int64_t k) {
      const std::int64_t bit = first + k;
      to[k] = static_cast<float>((from[bit / 8] >> (bit % 8)) & 1);
    };
    std::int64_t k = 0;
    for (; k < count && (first + k) % 8 != 0; ++k) read(k);
    for (; k + 8 <= count; k += 8) {
      const std::uint8_t byte = from[(first + k) / 8];
      for (int bit = 0; bit < 8; ++bit) to[k + bit] = static_cast<float>((byte >> bit) & 1);
    }
    for (; k < count; ++k) read(k);
  }
};

}  // namespace

void read_bits(const std::uint8_t* from, std::int64_t first, std::int64_t count, float* to) {
  run_version<ReadBits>(from, first, count, to);
}

}  // namespace neurocuda::cpu
