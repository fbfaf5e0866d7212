// The allocator of results on the CPU, and neurocuda::empty, which gives its memory to anyone.

#include "ops/memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include "cpu/memory.h"
#include "ops/layout.h"
#include "ops/operators.h"

namespace neurocuda {
namespace {

using at::Tensor;

constexpr std::size_t kPooled = std::size_t{1}
                                << 16;  // bytes; below, malloc reuses memory by itself, and is faster

void report(const cpu::Block& block, bool taken) {
  if (!c10::memoryProfilingEnabled()) return;
  const auto size = static_cast<std::int64_t>(block.asked);
  const cpu::PoolUse use = cpu::Pool::instance().use();
  c10::reportMemoryUsageToProfiler(block.data, taken ? size : -size, use.in_use, use.in_use + use.free,
                                   c10::kCPU);
}

void give_back(void* context) {
  auto* const block = static_cast<cpu::Block*>(context);
  report(*block, false);
  cpu::Pool::instance().give(block);
}

class PoolAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes < kPooled) return c10::GetCPUAllocator()->allocate(bytes);
    bool fresh = false;
    cpu::Block* const block = cpu::Pool::instance().take(bytes, fresh);
    TORCH_CHECK(block != nullptr, "neurocuda: the system has no ", bytes, " bytes of memory");
    c10::DataPtr data(block->data, block, &give_back, c10::kCPU);
    if (fresh) {
      // Each thread takes pages of its own: when they compute, they share pages, and would wait for each
      // other.
      const cpu::LargePages pages = cpu::large_pages(block->data, block->size);
      at::parallel_for(0, pages.count, 1,
                       [&](std::int64_t first, std::int64_t last) { pages.touch(first, last); });
    }
    report(*block, true);
    return data;
  }

  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

// Created while the module loads, before any fork, and never destroyed: storages point at the allocator.
[[maybe_unused]] const cpu::Pool& pool = cpu::Pool::instance();
PoolAllocator* const allocator = new PoolAllocator;

}  // namespace

Tensor empty(Boxed arguments) {
  const auto device = arguments[1].toOptional<c10::Device>().value_or(c10::kCPU);
  return fresh(arguments[0].toSymIntVector(), {}, at::TensorOptions().dtype(at::kFloat).device(device));
}

Tensor pooled(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type) {
  constexpr c10::DispatchKeySet cpu(c10::DispatchKey::CPU);
  if (strides.empty()) return at::detail::empty_generic(sizes, allocator, cpu, type, std::nullopt);
  return at::detail::empty_strided_generic(sizes, strides, allocator, cpu, type);
}

}  // namespace neurocuda
