// Emulation of CUDA on the CPU: g++ compiles the kernels as C++, so that they are tested without a GPU.
//
// Blocks run one after another, the threads of a block one at a time. Tests find wrong results, missed
// barriers, reads of uninitialized shared memory and, with sanitizers, out-of-bounds and misaligned accesses.
// They do not find wrong memory ordering between threads, and measure no speed.
#pragma once

#include "cuda/emulation/intrinsics.h"
#include "cuda/emulation/runtime.h"
