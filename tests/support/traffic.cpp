// Prints the bytes that one neuron moves in a time step: by NeuronTraits, and as counted by the emulation.
#include <cstdio>
#include <vector>

#include "cuda/neuron.cuh"

using namespace neurocuda;
using namespace neurocuda::cuda;

namespace {

constexpr std::int64_t kNeurons = 4096, kSteps = 64;

Signal signal(std::vector<std::uint64_t>& memory, Element type, std::int64_t steps) {
  memory.resize(kNeurons * size_of(type) * steps / 8 + 2);  // at least 16 bytes, aligned to 16
  Signal result;
  result.data = reinterpret_cast<char*>(memory.data());
  result.type = type;
  result.time_stride = kNeurons * size_of(type);
  return result;
}

// Bytes of branches and output that a kernel loads and stores, per time step and neuron.
double moved(Element input, Element output, bool packed, int branches) {
  std::vector<std::uint64_t> inputs[2], out, state;
  float coefficients[kCoefficients] = {0.9f, 0.1f, 0.0f, 0.0f, 0.0f, 1.0f, 0.0f};
  NeuronParams params{};
  params.kind = {Synapse::kNone, Fires::kAbove, Reset::kToValue};
  params.steps = kSteps;
  params.neurons = kNeurons;
  params.branch_count = branches;
  for (int branch = 0; branch < branches; ++branch) {
    params.branches[branch] = signal(inputs[branch], input, kSteps);
  }
  for (int name = 0; name < kCoefficients; ++name) params.coefficients[name].values = coefficients + name;
  params.v = signal(state, Element::kFloat32, 1);
  params.output = signal(out, output, kSteps);
  params.packed = packed;
  if (packed) params.output.time_stride = kNeurons / 8;
  auto& device = emulation::Device::instance();
  device.loaded = device.stored = 0;
  using Kind = KindOf<Synapse::kNone, Fires::kAbove, Reset::kToValue>;
  if (width_of(params) == 4) launch_wide<Kind, 4>(params, kNeurons, nullptr);
  if (width_of(params) == 8) launch_wide<Kind, 8>(params, kNeurons, nullptr);
  const std::uint64_t state_moved = 4 * kNeurons;
  return static_cast<double>(device.loaded + device.stored - 2 * state_moved) / (kNeurons * kSteps);
}

template <Element input, Element output, bool packed, int branches>
void print(const char* name) {
  std::printf("%s,%g,%g\n", name, NeuronTraits<input, output, packed, branches>::kBytesPerStep,
              moved(input, output, packed, branches));
}

}  // namespace

int main() {
  print<Element::kFloat32, Element::kFloat32, false, 1>("float32 to float32");
  print<Element::kFloat32, Element::kUInt8, false, 1>("float32 to uint8");
  print<Element::kFloat16, Element::kFloat16, false, 1>("float16 to float16");
  print<Element::kFloat16, Element::kUInt8, false, 1>("float16 to uint8");
  print<Element::kFloat16, Element::kUInt8, true, 1>("float16 to packed");
  print<Element::kFloat32, Element::kFloat32, false, 2>("float32 residual to float32");
}
