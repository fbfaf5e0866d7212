// One source, several instruction sets: which of them runs is chosen when it is called.
//
// The versions compute the same bits: they differ in width, and -ffp-contract=off keeps multiplications and
// additions apart where FMA exists.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(NEUROCUDA_ONE_VERSION)
#define NEUROCUDA_VERSIONS 1
#else
#define NEUROCUDA_VERSIONS 0
#endif

// For the loops inside a function of several versions: each version gets its own copy of them.
#define NEUROCUDA_INLINE inline __attribute__((always_inline))

namespace neurocuda::cpu {

enum class Instructions { kBaseline, kAvx2, kAvx512 };

// The best of this processor; NEUROCUDA_INSTRUCTIONS=baseline|avx2 chooses less.
inline Instructions best_instructions() {
#if NEUROCUDA_VERSIONS
  const char* asked = std::getenv("NEUROCUDA_INSTRUCTIONS");
  if (asked && !std::strcmp(asked, "baseline")) return Instructions::kBaseline;
  __builtin_cpu_init();
#if defined(__clang__) || __GNUC__ < 12  // which do not know the levels by name
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
#else
  const bool v3 = __builtin_cpu_supports("x86-64-v3"), v4 = __builtin_cpu_supports("x86-64-v4");
#endif
  if (v4 && !(asked && !std::strcmp(asked, "avx2"))) return Instructions::kAvx512;
  if (v3) return Instructions::kAvx2;
#endif
  return Instructions::kBaseline;
}

// Chosen when the library is loaded: rows are short, and a check for each would take time.
inline const Instructions kInstructions = best_instructions();

#if NEUROCUDA_VERSIONS
template <typename Kernel, typename... Arguments>
__attribute__((noinline, target("arch=x86-64-v4"))) auto run_v4(Arguments... arguments) {
  return Kernel::run(arguments...);
}

template <typename Kernel, typename... Arguments>
__attribute__((noinline, target("arch=x86-64-v3"))) auto run_v3(Arguments... arguments) {
  return Kernel::run(arguments...);
}
#endif

template <typename Kernel, typename... Arguments>
__attribute__((noinline)) auto run_v1(Arguments... arguments) {
  return Kernel::run(arguments...);
}

// Runs `Kernel::run`, a static NEUROCUDA_INLINE function, compiled for the best instructions of this
// processor. The arguments are given by value: structs as pointers.
template <typename Kernel, typename... Arguments>
auto run_version(Arguments... arguments) {
#if NEUROCUDA_VERSIONS
  if (kInstructions == Instructions::kAvx512) return run_v4<Kernel>(arguments...);
  if (kInstructions == Instructions::kAvx2) return run_v3<Kernel>(arguments...);
#endif
  return run_v1<Kernel>(arguments...);
}

}  // namespace neurocuda::cpu
