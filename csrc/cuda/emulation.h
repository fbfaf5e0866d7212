// Lets g++ compile a kernel as C++ and run it on the CPU: its source is tested where there is no GPU.
//
// Blocks run one after another, the threads of a block one at a time. What this shows: the results of a
// kernel, barriers that are missed, shared memory that is read before it is written, and, with sanitizers,
// accesses that are out of bounds or misaligned. What it does not: speed, and how a device orders what its
// threads write.
#pragma once

#include "cuda/emulation/intrinsics.h"
#include "cuda/emulation/runtime.h"
