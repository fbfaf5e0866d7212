// A pool of memory blocks for results: to take memory from the system costs more than to fill it.
//
// A request takes the smallest free block that is large enough, as long as what all blocks in use have beyond
// what was asked stays within half of the peak, the most that was asked for and in use at one time. Otherwise
// it takes a new block from the system, after giving free ones back, smallest first, until the pool holds, in
// use and free together, at most one and a half times the peak. The bound holds always; a pool without the
// half would give back and take again, call after call, where sizes change within one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace neurocuda::cpu {

struct Block {
  void* data;
  std::size_t size;   // a multiple of kPage
  std::size_t asked;  // rounded up, as requests of nearly one size share blocks
};

struct PoolUse {
  std::size_t in_use;  // bytes of blocks
  std::size_t free;
  std::int64_t taken;  // blocks taken from the system so far
};

class Pool {
 public:
  // The pool of the process. It is never destroyed: storages may outlive every static object.
  static Pool& instance();

  // Memory aligned to kPage; `fresh` says whether it was just taken from the system. Null if there is none.
  Block* take(std::size_t bytes, bool& fresh);
  void give(Block* block);

  PoolUse use();
  // Gives all free blocks back to the system, and forgets the peak.
  void release();

  static constexpr std::size_t kPage = 4096;

 private:
  Pool();
  Block* from_system(std::size_t size);
  void shrink(std::size_t most);  // gives back free blocks until the pool holds at most that much

  std::mutex mutex_;
  std::multimap<std::size_t, Block*> free_blocks_;
  std::size_t in_use_ = 0, free_ = 0;  // bytes of blocks
  std::size_t asked_ = 0, peak_ = 0;   // bytes asked for that are in use; their maximum
  std::int64_t taken_ = 0;
};

}  // namespace neurocuda::cpu
