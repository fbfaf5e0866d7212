// Runs kernels on the CPU: blocks one after another, the threads of a block on fibers, one at a time, each
// until it waits for other threads. A barrier that not all threads reach is an error.
//
// NEUROCUDA_EMULATION_ORDER=reverse runs the last block and the last thread first, to find results that
// depend on the order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/denormals.h"
#include "cuda/emulation/fiber.h"
#include "cuda/emulation/types.h"

namespace neurocuda::emulation {

constexpr int kPoison = 0xff;                    // in every byte: NaN in any floating-point type
constexpr std::size_t kStaticShared = 48 << 10;  // bytes per block without opt-in

// A barrier or warp operation at which a thread waits, with the value that it contributes.
struct SyncPoint {
  enum class Type { kBlock, kBallot, kShuffle } type;
  const char *name, *file;
  int line;
  unsigned mask;  // lanes of the warp; zero for a barrier of the block
  std::uint64_t value;
  int source;  // the lane whose value a shuffle takes

  bool same(const SyncPoint& other) const {
    return type == other.type && line == other.line && mask == other.mask &&
           std::strcmp(file, other.file) == 0 && std::strcmp(name, other.name) == 0;
  }
};

struct Thread {
  enum class State { kNew, kRunning, kWaiting, kReady, kDone } state;
  uint3 index;
  Fiber* fiber;  // on which it waits
  SyncPoint point;
  std::uint64_t result;  // of the warp operation
};

class Device {
 public:
  static Device& instance() {
    static Device* const device = new Device;  // never destroyed: fibers may outlive static objects
    return *device;
  }

  // Runs thread(context) for every thread of the grid. One launch at a time.
  void launch(const char* kernel, const void* function, dim3 grid, dim3 block, std::size_t shared,
              void (*thread)(void*), void* context) {
    const std::lock_guard<std::mutex> alone(mutex_);
    const cpu::KeepSubnormals guard;
    kernel_ = kernel;
    body_ = thread;
    context_ = context;
    const char* order = std::getenv("NEUROCUDA_EMULATION_ORDER");
    reverse_ = order != nullptr && std::strcmp(order, "reverse") == 0;
    check(grid, block, shared, function);
    ++launches_[kernel];
    // Of the exact size, so that a sanitizer finds accesses outside.
    shared_.reset(static_cast<char*>(::operator new(shared, std::align_val_t{kAlignment})));
    shared_bytes_ = shared;
    gridDim = grid;
    blockDim = block;
    const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
    try {
      for (std::uint64_t k = 0; k < blocks; ++k) {
        const std::uint64_t number = reverse_ ? blocks - 1 - k : k;
        blockIdx = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                    static_cast<unsigned>(number / grid.x / grid.y)};
        run_block();
      }
    } catch (...) {
      fibers_.clear();  // and unfinished threads
      free_.clear();
      throw;
    }
  }

  // Called by the running thread: waits for the others; returns the ballot or the shuffled value.
  std::uint64_t wait(const SyncPoint& point) {
    Thread& self = *current_;
    if (point.mask != 0 && (point.mask >> lane_of(self) & 1) == 0) {
      throw std::logic_error(location() + describe(self) + " is not in the mask of its own " + point.name);
    }
    self.point = point;
    self.state = Thread::State::kWaiting;
    self.fiber = fiber_;
    self.fiber->leave();
    return self.result;
  }

  char* dynamic_shared() { return shared_.get(); }

  // Registers a shared variable; poisons it when the first thread of a block reaches its declaration.
  void static_shared(void* at, std::size_t bytes) {
    if (std::find(statics_.begin(), statics_.end(), at) != statics_.end()) return;
    statics_.push_back(at);
    statics_bytes_ += bytes;
    if (statics_bytes_ > kStaticShared) {
      throw std::logic_error(location() + "more than 48 KB of static shared memory");
    }
    std::memset(at, kPoison, bytes);
  }

  void allow_shared(const void* function, std::size_t bytes) {
    const std::lock_guard<std::mutex> alone(mutex_);
    allowed_[function] = bytes;
  }

  // Number of launches of each kernel.
  std::map<std::string, std::uint64_t> launches() {
    const std::lock_guard<std::mutex> alone(mutex_);
    return launches_;
  }

  // Bytes of device memory, as counted by NEUROCUDA_LOADS and NEUROCUDA_STORES.
  std::uint64_t loaded = 0, stored = 0;

 private:
  static constexpr std::size_t kAlignment = 128;
  struct Freed {
    void operator()(char* memory) const { ::operator delete(memory, std::align_val_t{kAlignment}); }
  };

  void check(const dim3& grid, const dim3& block, std::size_t shared, const void* function) {
    const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
    const auto found = allowed_.find(function);
    const std::size_t allowed = found == allowed_.end() ? kStaticShared : found->second;
    const char* error = nullptr;
    if (threads == 0 || threads > 1024 || block.z > 64) error = "the size of a block";
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535u ||
        grid.z > 65535u) {
      error = "the size of the grid";
    }
    if (shared > allowed) error = "more shared memory than allowed";
    if (error != nullptr)
      throw std::runtime_error("neurocuda: kernel " + std::string(kernel_) + ": " + error);
  }

  void run_block() {
    const std::size_t count = std::size_t{blockDim.x} * blockDim.y * blockDim.z;
    threads_.resize(count);
    for (std::size_t k = 0; k < count; ++k) {
      threads_[k].state = Thread::State::kNew;
      threads_[k].index = {static_cast<unsigned>(k % blockDim.x),
                           static_cast<unsigned>(k / blockDim.x % blockDim.y),
                           static_cast<unsigned>(k / blockDim.x / blockDim.y)};
    }
    statics_.clear();
    statics_bytes_ = 0;
    if (shared_bytes_ > 0) std::memset(shared_.get(), kPoison, shared_bytes_);
    const std::size_t warps = (count + warpSize - 1) / warpSize;
    do {
      for (std::size_t k = 0; k < warps; ++k) {
        first_ = (reverse_ ? warps - 1 - k : k) * warpSize;
        lanes_ = std::min<std::size_t>(warpSize, count - first_);
        do {
          run_warp();
        } while (release_warp());
      }
    } while (release_block());
  }

  Thread& lane(std::size_t k) { return threads_[first_ + (reverse_ ? lanes_ - 1 - k : k)]; }
  std::size_t lane_of(const Thread& thread) const { return (&thread - threads_.data()) % warpSize; }

  void run_warp() {
    for (std::size_t k = 0; k < lanes_; ++k) {
      Thread& thread = lane(k);
      if (thread.state == Thread::State::kNew) {
        if (free_.empty()) {
          fibers_.push_back(std::make_unique<Fiber>([] { instance().run_fiber(); }));
          free_.push_back(fibers_.back().get());
        }
        fiber_ = free_.back();
        free_.pop_back();
      } else if (thread.state == Thread::State::kReady) {
        resume(thread);
        fiber_ = thread.fiber;
      } else {
        continue;
      }
      fiber_->enter();
      if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    }
  }

  void resume(Thread& thread) {
    thread.state = Thread::State::kRunning;
    threadIdx = thread.index;
    current_ = &thread;
  }

  // On a fiber: runs threads of the warp that have not started, until one waits; another fiber runs the rest.
  void run_fiber() {
    Fiber* const own = fiber_;
    own->arrived();
    for (;;) {
      for (std::size_t k = 0; k < lanes_ && !failure_; ++k) {
        Thread& thread = lane(k);
        if (thread.state != Thread::State::kNew) continue;
        resume(thread);
        try {
          body_(context_);
        } catch (...) {
          failure_ = std::current_exception();
        }
        current_->state = Thread::State::kDone;
      }
      free_.push_back(own);
      own->leave();
    }
  }

  // Resumes threads of the warp whose sync point all threads of its mask have reached; returns whether any
  // was resumed.
  bool release_warp() {
    bool released = false;
    for (std::size_t k = 0; k < lanes_; ++k) {
      Thread& thread = threads_[first_ + k];
      if (thread.state != Thread::State::kWaiting || thread.point.mask == 0) continue;
      const SyncPoint point = thread.point;
      const auto member = [&](std::size_t lane) { return (point.mask >> lane & 1) != 0; };
      bool all = true;
      for (std::size_t lane = 0; lane < lanes_; ++lane) {
        const Thread& other = threads_[first_ + lane];
        if (!member(lane)) continue;
        if (other.state == Thread::State::kDone) missed(thread, other);
        all = all && other.state == Thread::State::kWaiting && other.point.same(point);
      }
      if (!all) continue;
      std::uint64_t ballot = 0;
      for (std::size_t lane = 0; lane < lanes_; ++lane) {
        if (member(lane) && threads_[first_ + lane].point.value != 0) ballot |= std::uint64_t{1} << lane;
      }
      for (std::size_t lane = 0; lane < lanes_; ++lane) {
        Thread& other = threads_[first_ + lane];
        if (!member(lane)) continue;
        other.result = ballot;
        if (point.type == SyncPoint::Type::kShuffle) {
          const std::size_t source = other.point.source;
          if (source >= lanes_ || !member(source)) {
            throw std::logic_error(location() + describe(other) +
                                   " reads the value of a lane that is not in the mask");
          }
          other.result = threads_[first_ + source].point.value;
        }
        other.state = Thread::State::kReady;
      }
      released = true;
    }
    return released;
  }

  // Resumes all threads, which must be at the same barrier; false if all are done.
  bool release_block() {
    const Thread *waiting = nullptr, *done = nullptr;
    for (const Thread& thread : threads_) {
      (thread.state == Thread::State::kDone ? done : waiting) = &thread;
    }
    if (waiting == nullptr) return false;
    if (done != nullptr) missed(*waiting, *done);
    for (const Thread& thread : threads_) {
      if (!thread.point.same(waiting->point) || thread.point.mask != 0) missed(*waiting, thread);
    }
    for (Thread& thread : threads_) thread.state = Thread::State::kReady;
    return true;
  }

  std::string location() const {
    const auto number = [](unsigned n) { return std::to_string(n); };
    return "neurocuda: kernel " + std::string(kernel_) + ", block (" + number(blockIdx.x) + ", " +
           number(blockIdx.y) + ", " + number(blockIdx.z) + "): ";
  }

  static std::string describe(const Thread& thread) {
    return "thread (" + std::to_string(thread.index.x) + ", " + std::to_string(thread.index.y) + ", " +
           std::to_string(thread.index.z) + ")";
  }

  static std::string position(const Thread& thread) {
    if (thread.state == Thread::State::kDone) return describe(thread) + " has returned";
    const SyncPoint& point = thread.point;
    return describe(thread) + " waits at " + point.name + " (" + point.file + ":" +
           std::to_string(point.line) + ")";
  }

  [[noreturn]] void missed(const Thread& one, const Thread& other) const {
    throw std::logic_error(location() + "a missed barrier: " + position(one) + ", " + position(other));
  }

  std::mutex mutex_;
  const char* kernel_ = nullptr;
  void (*body_)(void*) = nullptr;
  void* context_ = nullptr;
  bool reverse_ = false;
  std::vector<Thread> threads_;
  std::size_t first_ = 0, lanes_ = 0;  // of the running warp
  Thread* current_ = nullptr;
  Fiber* fiber_ = nullptr;  // the running one
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> free_;
  std::exception_ptr failure_;
  std::unique_ptr<char, Freed> shared_;
  std::size_t shared_bytes_ = 0, statics_bytes_ = 0;
  std::vector<void*> statics_;
  std::map<const void*, std::size_t> allowed_;
  std::map<std::string, std::uint64_t> launches_;
};

}  // namespace neurocuda::emulation
