// Marks functions that are compiled for the host and for CUDA devices.
#pragma once

#if defined(__CUDACC__)
#define NEUROCUDA_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define NEUROCUDA_HOST_DEVICE inline __attribute__((always_inline))
#endif
