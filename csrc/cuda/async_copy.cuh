// Asynchronous copies from device memory to shared memory (cp.async), in groups.
#pragma once

#include "cuda/device.cuh"

#if defined(NEUROCUDA_EMULATED)
#include <cstring>
#else
#include <cuda_pipeline_primitives.h>
#endif

namespace neurocuda::cuda {

// Copies 16 bytes, both addresses aligned to 16; if not `valid`, reads nothing and writes zeros.
__device__ __forceinline__ void start_copy(unsigned char* to, const void* from, bool valid) {
#if defined(NEUROCUDA_EMULATED)
  if (valid)
    std::memcpy(to, from, 16);
  else
    std::memset(to, 0, 16);
#else
  __pipeline_memcpy_async(to, from, 16, valid ? 0 : 16);
#endif
  NEUROCUDA_LOADS(valid ? 16 : 0);
}

// Makes a group of the copies since the last group.
__device__ __forceinline__ void end_group() {
#if !defined(NEUROCUDA_EMULATED)
  __pipeline_commit();
#endif
}

// Waits for all groups except the latest `left`.
template <int left>
__device__ __forceinline__ void wait_for_groups() {
#if !defined(NEUROCUDA_EMULATED)
  __pipeline_wait_prior(left);
#endif
}

}  // namespace neurocuda::cuda
