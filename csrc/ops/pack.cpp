// pack_spikes, unpack_spikes: spikes as bits, eight neurons a byte, and back.

#include "cpu/pack.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <vector>

#include "ops/layout.h"
#include "ops/on_device.h"

namespace neurocuda {
namespace {

using at::Tensor;

constexpr std::int64_t kGrain = 1 << 16;  // spikes worth a thread

std::vector<c10::SymInt> packed_shape(c10::SymIntArrayRef sizes) {
  c10::SymInt neurons = 1;
  for (std::size_t axis = 1; axis < sizes.size(); ++axis) neurons = neurons * sizes[axis];
  return {sizes[0], (neurons + 7) / 8};
}

void check_spikes(const char* op, const Tensor& spikes) {
  TORCH_CHECK_VALUE(spikes.dim() >= 1, op, ": expected spikes [T, B, *shape], found a scalar");
  TORCH_CHECK_VALUE(readable(spikes.scalar_type()), op,
                    ": expected spikes of float32, float16, bfloat16, uint8 or bool, found ",
                    name_of(spikes.scalar_type()));
}

void check_bits(const char* op, const Tensor& bits, c10::SymIntArrayRef sizes) {
  const auto expected = packed_shape(sizes);
  TORCH_CHECK_VALUE(bits.scalar_type() == at::kByte && bits.sym_sizes() == c10::SymIntArrayRef(expected), op,
                    ": expected bits in uint8 of shape ", c10::SymIntArrayRef(expected), ", found ",
                    name_of(bits.scalar_type()), " of shape ", bits.sym_sizes());
  TORCH_CHECK_VALUE(bits.sym_size(1) <= 1 || bits.sym_stride(1) == 1, op,
                    ": expected rows of bits without gaps");
}

void pack_spikes_out(const Tensor& spikes, const Tensor& out) {
  check_spikes("pack_spikes", spikes);
  check_bits("pack_spikes", out, spikes.sym_sizes());
  TORCH_CHECK_VALUE(out.is_contiguous(), "pack_spikes: expected a contiguous out");
  if (spikes.is_meta() || out.numel() == 0) return;
  at::assert_no_overlap(out, spikes);
  const Order order = order_of(spikes.sizes().slice(1));
  const PackParams call{spikes.size(0), order.neurons, out.size(1), signal_of(spikes, true, order),
                        out.mutable_data_ptr<std::uint8_t>()};
  on_device(
      out, [&](cuda::Stream stream) { cuda::pack_spikes(call, stream); },
      [&] {
        at::parallel_for(0, call.steps, 1 + kGrain / call.neurons,
                         [&](std::int64_t first, std::int64_t last) { cpu::pack_spikes(call, first, last); });
      });
  mark_written(out);
}

Tensor pack_spikes(const Tensor& spikes) {
  check_spikes("pack_spikes", spikes);
  const Tensor out = fresh(packed_shape(spikes.sym_sizes()), {}, spikes.options().dtype(at::kByte));
  pack_spikes_out(spikes, out);
  return out;
}

void unpack_spikes_out(const Tensor& bits, const Tensor& out) {
  check_spikes("unpack_spikes", out);
  check_bits("unpack_spikes", bits, out.sym_sizes());
  if (bits.is_meta() || out.numel() == 0) return;
  at::assert_no_internal_overlap(out);
  at::assert_no_overlap(out, bits);
  const Order order = order_of(out.sizes().slice(1));
  const PackParams call{out.size(0), order.neurons, bits.stride(0), signal_of(out, true, order),
                        const_cast<std::uint8_t*>(bits.const_data_ptr<std::uint8_t>())};
  on_device(
      out, [&](cuda::Stream stream) { cuda::unpack_spikes(call, stream); },
      [&] {
        at::parallel_for(
            0, call.steps, 1 + kGrain / call.neurons,
            [&](std::int64_t first, std::int64_t last) { cpu::unpack_spikes(call, first, last); });
      });
  mark_written(out);
}

Tensor unpack_spikes(const Tensor& bits, c10::SymIntArrayRef shape, at::ScalarType dtype) {
  TORCH_CHECK_VALUE(bits.dim() == 2, "unpack_spikes: expected bits [T, bytes], found ", bits.sym_sizes());
  std::vector<c10::SymInt> sizes(shape.begin(), shape.end());
  sizes.insert(sizes.begin(), bits.sym_size(0));
  const Tensor out = fresh(sizes, {}, bits.options().dtype(dtype));
  unpack_spikes_out(bits, out);
  return out;
}

TORCH_LIBRARY_FRAGMENT(neurocuda, m) {
  // [T, B, *shape] to [T, bytes], along the axes after the first as one; any value but zero is a spike.
  m.def("pack_spikes(Tensor spikes) -> Tensor");
  m.def("pack_spikes.out(Tensor spikes, *, Tensor(a!) out) -> ()");
  // The reverse; `shape` is [B, *shape].
  m.def("unpack_spikes(Tensor bits, SymInt[] shape, *, ScalarType dtype=float) -> Tensor");
  m.def("unpack_spikes.out(Tensor bits, *, Tensor(a!) out) -> ()");
}

void implement(torch::Library& m) {
  m.impl("pack_spikes", pack_spikes);
  m.impl("pack_spikes.out", pack_spikes_out);
  m.impl("unpack_spikes", unpack_spikes);
  m.impl("unpack_spikes.out", unpack_spikes_out);
}

NEUROCUDA_IMPLEMENT(implement)
TORCH_LIBRARY_IMPL(neurocuda, Meta, m) { implement(m); }

}  // namespace
}  // namespace neurocuda
