#include "cpu/memory_pool.h"

#include <algorithm>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sys/mman.h>
#define NEUROCUDA_MMAP 1
#endif

namespace neurocuda::cpu {
namespace {

// Replacements of memory before the slack has grown by the memory replaced.
constexpr std::size_t kTimes = 16;

// From the system itself, not from malloc, which may keep what is given back.
void* system_take(std::size_t size) {
#ifdef NEUROCUDA_MMAP
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : data;
#else
  return ::operator new(size, std::align_val_t{Pool::kPage}, std::nothrow);
#endif
}

void system_give(void* data, [[maybe_unused]] std::size_t size) {
#ifdef NEUROCUDA_MMAP
  munmap(data, size);
#else
  ::operator delete(data, std::align_val_t{Pool::kPage});
#endif
}

// Up by at most a sixteenth, or to a page.
std::size_t rounded(std::size_t bytes) {
  std::size_t step = Pool::kPage;
  while (step * 32 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

}  // namespace

Pool& Pool::instance() {
  static Pool* const pool = new Pool;
  return *pool;
}

Pool::Pool() {
#ifdef NEUROCUDA_MMAP
  // No other thread may hold the lock while a child is made, which has only the thread that made it.
  pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                 [] { instance().mutex_.unlock(); });
#endif
}

Block* Pool::take(std::size_t bytes, bool& fresh) {
  const std::size_t asked = rounded(bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::size_t peak = std::max(peak_, asked_ + asked);
  const std::size_t slack = std::min(peak / 2 + grown_, peak);
  const auto found = free_blocks_.lower_bound(asked);
  const bool fits = found != free_blocks_.end();
  fresh = !fits || in_use_ + found->first - (asked_ + asked) > slack;
  Block* block;
  if (fresh) {
    const bool gone = shrink(peak + slack - asked);
    if (gone || fits) grown_ = std::min(grown_ + asked / kTimes, peak);
    block = from_system(asked);
    if (block == nullptr) return nullptr;
  } else {
    block = found->second;
    free_blocks_.erase(found);
    free_ -= block->size;
  }
  block->asked = asked;
  in_use_ += block->size;
  asked_ += asked;
  peak_ = peak;
  return block;
}

void Pool::give(Block* block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  in_use_ -= block->size;
  asked_ -= block->asked;
  free_ += block->size;
  block->given = ++given_;
  free_blocks_.emplace(block->size, block);
}

PoolUse Pool::use() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {in_use_, free_, taken_};
}

void Pool::release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  shrink(0);
  peak_ = asked_;
  grown_ = 0;
}

Block* Pool::from_system(std::size_t size) {
  void* data = system_take(size);
  if (data == nullptr) {
    shrink(0);
    data = system_take(size);
  }
  if (data == nullptr) return nullptr;
  ++taken_;
  return new Block{data, size, 0, 0};
}

bool Pool::shrink(std::size_t most) {
  const std::size_t before = free_;
  while (!free_blocks_.empty() && in_use_ + free_ > most) {
    const auto oldest = std::min_element(free_blocks_.begin(), free_blocks_.end(),
                                         [](auto& a, auto& b) { return a.second->given < b.second->given; });
    Block* const block = oldest->second;
    free_ -= block->size;
    system_give(block->data, block->size);
    free_blocks_.erase(oldest);
    delete block;
  }
  return free_ < before;
}

}  // namespace neurocuda::cpu
