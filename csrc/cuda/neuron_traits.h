// How the neuron kernels go through memory: numbers that the kernels, the choice among them and the tests
// share.
#pragma once

#include "params/elements.h"

namespace neurocuda::cuda {

constexpr int kAccessBytes = 16;  // the widest access of a thread

// Neighbouring neurons of a thread where it makes wide accesses: a whole access of float32 or of float16.
// Bytes come eight at a time: more neurons would need more registers than they save time.
NEUROCUDA_HOST_DEVICE constexpr int width_for(std::int64_t largest_input) {
  return kAccessBytes / static_cast<int>(largest_input < 2 ? 2 : largest_input);
}

// Accesses that a thread has under way: branches and steps that it loads before it computes with the first.
NEUROCUDA_HOST_DEVICE constexpr int stages_for(int width) { return width == 1 ? 16 : 4; }

// What one step of one neuron moves, where state and coefficients stay in registers: it reads `branches`
// elements and writes one, or a bit.
template <Element input, Element output, bool packed = false, int branches = 1>
struct NeuronTraits {
  static constexpr int kWidth = width_for(size_of(input));
  static constexpr int kLoadBytes = kWidth * static_cast<int>(size_of(input));  // of a branch, in one access
  static constexpr int kStoreBits = packed ? kWidth : 8 * kWidth * static_cast<int>(size_of(output));
  static constexpr double kBytesPerStep = (branches * kLoadBytes + kStoreBits / 8.0) / kWidth;

  static_assert(kLoadBytes == kAccessBytes || size_of(input) == 1, "floats are loaded 16 bytes at a time");
  static_assert(kStoreBits % 4 == 0, "a store is made of whole bytes, by one thread or by two");
};

static_assert(NeuronTraits<Element::kFloat32, Element::kFloat32>::kBytesPerStep == 8);
static_assert(NeuronTraits<Element::kFloat32, Element::kUInt8>::kBytesPerStep == 5);
static_assert(NeuronTraits<Element::kFloat16, Element::kFloat16>::kBytesPerStep == 4);
static_assert(NeuronTraits<Element::kFloat16, Element::kUInt8>::kBytesPerStep == 3);
static_assert(NeuronTraits<Element::kFloat16, Element::kUInt8, true>::kBytesPerStep == 2.125);
static_assert(NeuronTraits<Element::kFloat32, Element::kFloat32, false, 2>::kBytesPerStep == 12);

}  // namespace neurocuda::cuda
