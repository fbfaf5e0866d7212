// Copies from device memory to shared memory that a thread starts, and waits for later, group by group.
#pragma once

#include "cuda/device.cuh"

#if defined(NEUROCUDA_EMULATED)
#include <cstring>
#else
#include <cuda_pipeline_primitives.h>
#endif

namespace neurocuda::cuda {

// 16 bytes, both at multiples of 16; zeros, and nothing is read, unless they are there.
__device__ __forceinline__ void start_copy(unsigned char* to, const void* from, bool there) {
#if defined(NEUROCUDA_EMULATED)
  if (there)
    std::memcpy(to, from, 16);
  else
    std::memset(to, 0, 16);
#else
  __pipeline_memcpy_async(to, from, 16, there ? 0 : 16);
#endif
  NEUROCUDA_LOADS(there ? 16 : 0);
}

// The copies since the last group are a group.
__device__ __forceinline__ void end_group() {
#if !defined(NEUROCUDA_EMULATED)
  __pipeline_commit();
#endif
}

// Waits for all groups but the latest `left`.
template <int left>
__device__ __forceinline__ void wait_for_groups() {
#if !defined(NEUROCUDA_EMULATED)
  __pipeline_wait_prior(left);
#endif
}

}  // namespace neurocuda::cuda
