// A pool of memory blocks for results: to take memory from the system costs more than to fill it.
//
// A request takes the smallest free block that is large enough, as long as what all blocks in use have beyond
// what was asked stays within the slack. Otherwise it takes a new block from the system, after giving free
// ones back until the pool holds, in use and free together, at most the slack more than the peak, which is
// the most that was asked for and in use at one time. Those go first that were free for the longest time:
// what a call needs again is younger than what another kind of call has left.
//
// The slack is half of the peak. Calls whose sizes do not fit together in that would give back and take
// again, each time; so it grows by a part of what is taken in place of what was there, to the whole peak.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace neurocuda::cpu {

struct Block {
  void* data;
  std::size_t size;    // a multiple of kPage
  std::size_t asked;   // rounded up, as requests of nearly one size share blocks
  std::int64_t given;  // when it was given last
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
  // Gives all free blocks back to the system, and forgets the peak and the slack.
  void release();

  static constexpr std::size_t kPage = 4096;

 private:
  Pool();
  Block* from_system(std::size_t size);
  bool shrink(std::size_t most);  // gives back free blocks until the pool holds at most that much; if any

  std::mutex mutex_;
  std::multimap<std::size_t, Block*> free_blocks_;
  std::size_t in_use_ = 0, free_ = 0;  // bytes of blocks
  std::size_t asked_ = 0, peak_ = 0;   // bytes asked for that are in use; their maximum
  std::size_t grown_ = 0;              // the slack beyond half of the peak
  std::int64_t taken_ = 0, given_ = 0;
};

}  // namespace neurocuda::cpu
