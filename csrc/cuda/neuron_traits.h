// Memory access pattern of the neuron kernels: constants shared by the kernels, their launchers and the
// tests.
#pragma once

#include "params/elements.h"

namespace neurocuda::cuda {

constexpr int kAccessBytes = 16;  // widest access of a thread

// Neurons per thread with wide accesses: 16 bytes of float32 or float16. Of bytes only eight, because more
// neurons would cost more in registers than they save in accesses.
NEUROCUDA_HOST_DEVICE constexpr int width_for(std::int64_t largest_input) {
  return kAccessBytes / static_cast<int>(largest_input < 2 ? 2 : largest_input);
}

// Loads in flight per thread: over branches and time steps, issued before the first is used.
NEUROCUDA_HOST_DEVICE constexpr int stages_for(int width) { return width == 1 ? 16 : 4; }

// Bytes that one neuron moves in one time step, with state and coefficients in registers: it reads `branches`
// elements and writes one, or one bit if packed.
template <Element input, Element output, bool packed = false, int branches = 1>
struct NeuronTraits {
  static constexpr int kWidth = width_for(size_of(input));
  static constexpr int kLoadBytes = kWidth * static_cast<int>(size_of(input));  // per branch, in one access
  static constexpr int kStoreBits = packed ? kWidth : 8 * kWidth * static_cast<int>(size_of(output));
  static constexpr double kBytesPerStep = (branches * kLoadBytes + kStoreBits / 8.0) / kWidth;

  static_assert(kLoadBytes == kAccessBytes || size_of(input) == 1, "floats are loaded 16 bytes at a time");
  static_assert(kStoreBits % 4 == 0, "one or two threads store full bytes");
};

static_assert(NeuronTraits<Element::kFloat32, Element::kFloat32>::kBytesPerStep == 8);
static_assert(NeuronTraits<Element::kFloat32, Element::kUInt8>::kBytesPerStep == 5);
static_assert(NeuronTraits<Element::kFloat16, Element::kFloat16>::kBytesPerStep == 4);
static_assert(NeuronTraits<Element::kFloat16, Element::kUInt8>::kBytesPerStep == 3);
static_assert(NeuronTraits<Element::kFloat16, Element::kUInt8, true>::kBytesPerStep == 2.125);
static_assert(NeuronTraits<Element::kFloat32, Element::kFloat32, false, 2>::kBytesPerStep == 12);

}  // namespace neurocuda::cuda
