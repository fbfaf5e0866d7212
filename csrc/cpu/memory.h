// Memory that was just taken from the system.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace neurocuda::cpu {

constexpr std::size_t kLargePage = std::size_t{1} << 21;

// The whole large pages inside some memory.
struct LargePages {
  char* start = nullptr;
  std::int64_t count = 0;

  // Takes pages first .. last - 1 from the system.
  void touch(std::int64_t first, std::int64_t last) const {
    for (std::int64_t page = first; page < last; ++page) {
      static_cast<volatile char*>(start)[page * static_cast<std::int64_t>(kLargePage)] = 0;
    }
  }
};

// Asks for large pages under memory that is about to be written for the first time: to take a page costs more
// than to fill it. None where that is not worth it, or not possible.
inline LargePages large_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::size_t kWorthIt = 4 * kLargePage;
  if (bytes < kWorthIt) return {};
  const auto start = (reinterpret_cast<std::uintptr_t>(memory) + kLargePage - 1) / kLargePage * kLargePage;
  const auto end = (reinterpret_cast<std::uintptr_t>(memory) + bytes) / kLargePage * kLargePage;
  if (madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE) != 0) return {};
  return {reinterpret_cast<char*>(start), static_cast<std::int64_t>((end - start) / kLargePage)};
#else
  return {};
#endif
}

}  // namespace neurocuda::cpu
