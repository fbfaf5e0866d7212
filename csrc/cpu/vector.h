// Vectors of float of a chosen width, and the choice of the version at run time.
//
// A kernel is a struct with `template <int lanes, int registers> static void run(const Job&)`: `lanes` floats
// fit in a vector register, of which there are `registers`. The blocking depends on both, so the kernel is
// compiled once for each instruction set; all versions compute the same bits, as -ffp-contract=off keeps
// multiplications and additions apart.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "cpu/multiversion.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between inlined functions only
#endif

namespace neurocuda::cpu {

template <int lanes>
struct VectorOf {
  typedef float type __attribute__((vector_size(lanes * sizeof(float))));
};

template <>
struct VectorOf<1> {
  typedef float type;
};

template <int lanes>
using Vector = typename VectorOf<lanes>::type;

template <int lanes>
NEUROCUDA_INLINE Vector<lanes> load(const float* from) {
  Vector<lanes> vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

template <int lanes>
NEUROCUDA_INLINE void store(float* to, const Vector<lanes>& vector) {
  std::memcpy(to, &vector, sizeof vector);
}

// Stores the first `count` lanes, at most all; none if it is negative.
template <int lanes>
NEUROCUDA_INLINE void store_some(float* to, const Vector<lanes>& vector, std::int64_t count) {
  if (count >= lanes) return store<lanes>(to, vector);
  if (count <= 0) return;
  float values[lanes];
  store<lanes>(values, vector);
  int at = 0;
#pragma GCC unroll 4
  for (int piece = lanes / 2; piece > 0; piece /= 2) {
    if (count & piece) {
      std::memcpy(to + at, values + at, piece * sizeof(float));
      at += piece;
    }
  }
}

// Floats from an address that the widest vector divides: one that straddles cache lines costs several times
// as much.
class AlignedFloats {
 public:
  explicit AlignedFloats(std::int64_t count)
      : count_(count), data_(new (std::align_val_t{64}) float[count]) {}
  ~AlignedFloats() { ::operator delete[](data_, std::align_val_t{64}); }
  AlignedFloats(const AlignedFloats&) = delete;
  AlignedFloats& operator=(const AlignedFloats&) = delete;

  float* data() { return data_; }
  const float* data() const { return data_; }
  void clear() { std::memset(data_, 0, count_ * sizeof(float)); }

 private:
  std::int64_t count_;
  float* data_;
};

template <int lanes, bool high, std::size_t... lane>
NEUROCUDA_INLINE Vector<lanes> interleave(const Vector<lanes>& a, const Vector<lanes>& b,
                                          std::index_sequence<lane...>) {
  return __builtin_shufflevector(a, b, ((lane % 2 ? lanes : 0) + (high ? lanes / 2 : 0) + int(lane) / 2)...);
}

// Transposes a square of lanes x lanes floats.
template <int lanes>
NEUROCUDA_INLINE void transpose(Vector<lanes> (&rows)[lanes]) {
  constexpr auto sequence = std::make_index_sequence<lanes>();
#pragma GCC unroll 8
  for (int round = 1; round < lanes; round *= 2) {
    Vector<lanes> next[lanes];
#pragma GCC unroll 16
    for (int row = 0; row < lanes / 2; ++row) {
      next[2 * row] = interleave<lanes, false>(rows[row], rows[row + lanes / 2], sequence);
      next[2 * row + 1] = interleave<lanes, true>(rows[row], rows[row + lanes / 2], sequence);
    }
#pragma GCC unroll 16
    for (int row = 0; row < lanes; ++row) rows[row] = next[row];
  }
}

#if NEUROCUDA_VERSIONS
template <typename Kernel, typename Job>
__attribute__((noinline, target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,prefer-vector-width=512"))) void
run_avx512(const Job& job) {
  Kernel::template run<16, 32>(job);
}

template <typename Kernel, typename Job>
__attribute__((noinline, target("avx2,bmi"))) void run_avx2(const Job& job) {
  Kernel::template run<8, 16>(job);
}
#endif

template <typename Kernel, typename Job>
__attribute__((noinline)) void run_baseline(const Job& job) {
#if defined(__aarch64__)
  Kernel::template run<4, 32>(job);
#else
  Kernel::template run<4, 16>(job);
#endif
}

// Runs the version of the kernel for this machine whose vectors divide `width` floats, a multiple of 4.
template <typename Kernel, typename Job>
void run_best(const Job& job, [[maybe_unused]] std::int64_t width) {
#if NEUROCUDA_VERSIONS
  if (kInstructions == Instructions::kAvx512 && width % 16 == 0) return run_avx512<Kernel>(job);
  if (kInstructions != Instructions::kBaseline && width % 8 == 0) return run_avx2<Kernel>(job);
#endif
  run_baseline<Kernel>(job);
}

}  // namespace neurocuda::cpu
