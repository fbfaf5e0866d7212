// A fiber: a separate stack, on which the emulation runs threads of a block until one waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace neurocuda::emulation {

#if defined(__x86_64__)
// A context is the stack pointer; the callee-saved registers are on the stack.
using Context = void*;

__attribute__((naked, noinline)) inline void switch_context(Context* /*from*/, Context* /*to*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq (%rsi), %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

inline void make_context(Context* context, char* stack, std::size_t bytes, void (*entry)()) {
  auto* top = reinterpret_cast<void**>(reinterpret_cast<std::uintptr_t>(stack + bytes) / 16 * 16);
  top[-1] = nullptr;  // `entry` never returns
  top[-2] = reinterpret_cast<void*>(entry);
  for (int saved = 3; saved <= 8; ++saved) top[-saved] = nullptr;
  *context = top - 8;
}
#else
using Context = ucontext_t;

inline void switch_context(Context* from, Context* to) { swapcontext(from, to); }

inline void make_context(Context* context, char* stack, std::size_t bytes, void (*entry)()) {
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = bytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}
#endif

class Fiber {
 public:
  explicit Fiber(void (*entry)()) : stack_(new char[kBytes]) {
    make_context(&own_, stack_.get(), kBytes, entry);
  }

  // Switches to the fiber; returns when it calls leave().
  void enter() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&caller_fake_, stack_.get(), kBytes);
#endif
    switch_context(&caller_, &own_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(caller_fake_, nullptr, nullptr);
#endif
  }

  // Must be called first on the fiber: tells AddressSanitizer about the switch.
  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(own_fake_, &caller_stack_, &caller_bytes_);
#endif
  }

  // On the fiber: switches back to the caller; returns at the next enter().
  void leave() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&own_fake_, caller_stack_, caller_bytes_);
#endif
    switch_context(&own_, &caller_);
    arrived();
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr std::size_t kBytes = std::size_t{1} << 18;
  void *caller_fake_ = nullptr, *own_fake_ = nullptr;
  const void* caller_stack_ = nullptr;
  std::size_t caller_bytes_ = 0;
#else
  static constexpr std::size_t kBytes = std::size_t{1} << 16;
#endif
  std::unique_ptr<char[]> stack_;
  Context own_, caller_;
};

}  // namespace neurocuda::emulation
