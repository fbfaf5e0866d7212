// One source, several instruction sets: the loader picks the version that fits the machine.
#pragma once

#include <cstdlib>  // defines __GLIBC__, where there is one

// target_clones needs the resolvers of glibc. The versions give the same bits: they differ in width, and
// -ffp-contract=off keeps multiplications and additions apart where FMA exists.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 12 && !defined(NEUROCUDA_ONE_VERSION)
#define NEUROCUDA_MULTIVERSION \
  __attribute__((noinline, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define NEUROCUDA_MULTIVERSION __attribute__((noinline))
#endif

// For the loops inside a function of several versions: each version gets its own copy of them.
#define NEUROCUDA_INLINE inline __attribute__((always_inline))
