// pack_spikes, unpack_spikes: spikes as bits, eight neurons a byte, and back.

#include "cpu/pack.h"

#include <ATen/Parallel.h>

#include <vector>

#include "ops/layout.h"
#include "ops/on_device.h"
#include "ops/operators.h"

namespace neurocuda {
namespace {

using at::Tensor;

void check_spikes(const char* op, const Tensor& spikes) {
  TORCH_CHECK_VALUE(spikes.dim() >= 1, op, ": expected spikes [T, B, *shape], found a scalar");
  TORCH_CHECK_VALUE(readable(spikes.scalar_type()), op,
                    ": expected spikes of float32, float16, bfloat16, uint8 or bool, found ",
                    name_of(spikes.scalar_type()));
}

// From one to the other, whichever `to_bits` chooses.
void convert(const Tensor& spikes, const Tensor& bits, bool to_bits) {
  if (spikes.is_meta() || spikes.numel() == 0) return;
  const Order order = order_of(spikes.sizes().slice(1));
  const PackParams params{spikes.size(0), order.neurons, bits.stride(0), signal_of(spikes, true, order),
                          reinterpret_cast<std::uint8_t*>(place_of(bits))};
  constexpr std::int64_t kWorthAThread = 1 << 16;  // spikes
  on_device(
      spikes,
      [&](cuda::Stream stream) { (to_bits ? cuda::pack_spikes : cuda::unpack_spikes)(params, stream); },
      [&] {
        at::parallel_for(0, params.steps, 1 + kWorthAThread / params.neurons,
                         [&](std::int64_t first, std::int64_t last) {
                           (to_bits ? cpu::pack_spikes : cpu::unpack_spikes)(params, first, last);
                         });
      });
}

}  // namespace

Tensor pack_spikes(Boxed arguments) {
  const Tensor spikes = arguments[0].toTensor();
  check_spikes("pack_spikes", spikes);
  const Tensor bits = fresh(packed_shape(spikes.sym_sizes()), {}, spikes.options().dtype(at::kByte));
  convert(spikes, bits, true);
  return bits;
}

Tensor unpack_spikes(Boxed arguments) {
  const Tensor bits = arguments[0].toTensor();
  TORCH_CHECK_VALUE(bits.dim() == 2, "unpack_spikes: expected bits [T, bytes], found ", bits.sym_sizes());
  std::vector<c10::SymInt> sizes = arguments[1].toSymIntVector();
  sizes.insert(sizes.begin(), bits.sym_size(0));
  const Tensor spikes = fresh(sizes, {}, bits.options().dtype(arguments[2].toScalarType()));
  check_spikes("unpack_spikes", spikes);
  const auto expected = packed_shape(sizes);
  TORCH_CHECK_VALUE(bits.scalar_type() == at::kByte && bits.sym_sizes() == c10::SymIntArrayRef(expected),
                    "unpack_spikes: expected bits in uint8 of shape ", c10::SymIntArrayRef(expected),
                    ", found ", name_of(bits.scalar_type()), " of shape ", bits.sym_sizes());
  TORCH_CHECK_VALUE(bits.sym_size(1) <= 1 || bits.sym_stride(1) == 1,
                    "unpack_spikes: expected rows of bits without gaps");
  convert(spikes, bits, false);
  return spikes;
}

}  // namespace neurocuda
