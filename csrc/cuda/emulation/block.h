// Runs kernels on the CPU: blocks one after another, the threads of a block on fibers, one at a time, each
// until it waits for others. A barrier that not all threads meet is an error.
//
// NEUROCUDA_EMULATION_ORDER=reverse runs the last block and the last thread first: a result that depends on
// the order shows.
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
constexpr std::size_t kStaticShared = 48 << 10;  // of a block that does not ask for more

enum class Meets { kSync, kBallot, kCount, kShuffle };

// Where a thread waits, for whom, and what it brings.
struct Meeting {
  Meets kind;
  const char *name, *file;
  int line;
  unsigned mask;  // lanes of the warp; zero for the whole block
  std::uint64_t value;
  int source;  // the lane whose value a shuffle takes

  bool same(const Meeting& other) const {
    return kind == other.kind && line == other.line && mask == other.mask &&
           std::strcmp(file, other.file) == 0 && std::strcmp(name, other.name) == 0;
  }
};

struct Thread {
  enum class State { kNew, kRunning, kWaits, kReady, kDone } state;
  uint3 index;
  Fiber* fiber;  // on which it waits
  Meeting meeting;
  std::uint64_t taken;  // what it brings back
};

class Device {
 public:
  static Device& instance() {
    static Device* const device = new Device;  // never destroyed: fibers may outlive everything
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
    // Of its exact size, so that a sanitizer sees what lies outside.
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
      fibers_.clear();  // with what was left on them
      free_.clear();
      throw;
    }
  }

  // Of the running thread: waits for the others; returns the ballot, the count or the value taken.
  std::uint64_t meet(const Meeting& meeting) {
    Thread& self = *current_;
    if (meeting.mask != 0 && (meeting.mask >> lane_of(self) & 1) == 0) {
      throw std::logic_error(place() + describe(self) + " is not in the mask of its own " + meeting.name);
    }
    self.meeting = meeting;
    self.state = Thread::State::kWaits;
    self.fiber = fiber_;
    self.fiber->leave();
    return self.taken;
  }

  char* dynamic_shared() { return shared_.get(); }

  // A __shared__ variable, poisoned when the first thread of a block comes to it.
  void static_shared(void* at, std::size_t bytes) {
    if (std::find(statics_.begin(), statics_.end(), at) != statics_.end()) return;
    statics_.push_back(at);
    statics_bytes_ += bytes;
    if (statics_bytes_ > kStaticShared) {
      throw std::logic_error(place() + "more than 48 KB of static shared memory");
    }
    std::memset(at, kPoison, bytes);
  }

  void allow_shared(const void* function, std::size_t bytes) {
    const std::lock_guard<std::mutex> alone(mutex_);
    allowed_[function] = bytes;
  }

  // How often each kernel was launched.
  std::map<std::string, std::uint64_t> launches() {
    const std::lock_guard<std::mutex> alone(mutex_);
    return launches_;
  }

  // Bytes of device memory, of kernels that count them.
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
    const char* wrong = nullptr;
    if (threads == 0 || threads > 1024 || block.z > 64) wrong = "the size of a block";
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535u ||
        grid.z > 65535u) {
      wrong = "the size of the grid";
    }
    if (shared > allowed) wrong = "more shared memory than allowed";
    if (wrong != nullptr)
      throw std::runtime_error("neurocuda: kernel " + std::string(kernel_) + ": " + wrong);
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
          fibers_.push_back(std::make_unique<Fiber>([] { instance().live(); }));
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

  // On a fiber: runs the threads of the warp that have not started, until one waits; then others go on.
  void live() {
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

  // Lets those of a warp go on that have all met; whether there are any.
  bool release_warp() {
    bool released = false;
    for (std::size_t k = 0; k < lanes_; ++k) {
      Thread& thread = threads_[first_ + k];
      if (thread.state != Thread::State::kWaits || thread.meeting.mask == 0) continue;
      const Meeting meeting = thread.meeting;
      const auto member = [&](std::size_t lane) { return (meeting.mask >> lane & 1) != 0; };
      bool all = true;
      for (std::size_t lane = 0; lane < lanes_; ++lane) {
        const Thread& other = threads_[first_ + lane];
        if (!member(lane)) continue;
        if (other.state == Thread::State::kDone) missed(thread, other);
        all = all && other.state == Thread::State::kWaits && other.meeting.same(meeting);
      }
      if (!all) continue;
      std::uint64_t ballot = 0;
      for (std::size_t lane = 0; lane < lanes_; ++lane) {
        if (member(lane) && threads_[first_ + lane].meeting.value != 0) ballot |= std::uint64_t{1} << lane;
      }
      for (std::size_t lane = 0; lane < lanes_; ++lane) {
        Thread& other = threads_[first_ + lane];
        if (!member(lane)) continue;
        other.taken = ballot;
        if (meeting.kind == Meets::kShuffle) {
          const std::size_t source = other.meeting.source;
          if (source >= lanes_ || !member(source)) {
            throw std::logic_error(place() + describe(other) +
                                   " takes the value of a lane that is not there");
          }
          other.taken = threads_[first_ + source].meeting.value;
        }
        other.state = Thread::State::kReady;
      }
      released = true;
    }
    return released;
  }

  // Lets all threads go on if they have met; false if all are done.
  bool release_block() {
    const Thread* waits = nullptr;
    const Thread* done = nullptr;
    std::uint64_t count = 0;
    for (const Thread& thread : threads_) {
      (thread.state == Thread::State::kDone ? done : waits) = &thread;
    }
    if (waits == nullptr) return false;
    if (done != nullptr) missed(*waits, *done);
    for (const Thread& thread : threads_) {
      if (!thread.meeting.same(waits->meeting) || thread.meeting.mask != 0) missed(*waits, thread);
      if (thread.meeting.value != 0) ++count;
    }
    for (Thread& thread : threads_) {
      thread.taken = count;
      thread.state = Thread::State::kReady;
    }
    return true;
  }

  std::string place() const {
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
    const Meeting& meeting = thread.meeting;
    return describe(thread) + " waits at " + meeting.name + " (" + meeting.file + ":" +
           std::to_string(meeting.line) + ")";
  }

  [[noreturn]] void missed(const Thread& one, const Thread& other) const {
    throw std::logic_error(place() + "a missed barrier: " + position(one) + ", " + position(other));
  }

  std::mutex mutex_;
  const char* kernel_ = nullptr;
  void (*body_)(void*) = nullptr;
  void* context_ = nullptr;
  bool reverse_ = false;
  std::vector<Thread> threads_;
  std::size_t first_ = 0, lanes_ = 0;  // of the warp that runs
  Thread* current_ = nullptr;
  Fiber* fiber_ = nullptr;  // that runs
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
