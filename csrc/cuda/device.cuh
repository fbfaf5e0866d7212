// The base of every kernel and launcher: CUDA, or its emulation on the CPU.
//
// Conventions: launch with NEUROCUDA_LAUNCH; declare shared memory with NEUROCUDA_SHARED and
// NEUROCUDA_DYNAMIC_SHARED; add and multiply floats with the functions of neuron_update.h; use no cooperative
// groups; give inline PTX an equivalent in C++ for the emulation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#if defined(NEUROCUDA_EMULATED)
#include "cuda/emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include "cuda/kernels.h"
#include "neuron_update.h"

#if defined(NEUROCUDA_EMULATED)
// Launches a kernel; put parentheses around one with several template arguments. An error names the kernel.
#define NEUROCUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (static_cast<void>(stream),                                            \
   ::neurocuda::emulation::launch(#kernel, kernel, grid, block, shared_bytes, __VA_ARGS__))

// Count the bytes of device memory that a thread loads or stores; only in the emulation.
#define NEUROCUDA_LOADS(bytes) (::neurocuda::emulation::Device::instance().loaded += (bytes))
#define NEUROCUDA_STORES(bytes) (::neurocuda::emulation::Device::instance().stored += (bytes))

// A shared memory variable, aligned to 16 bytes: NEUROCUDA_SHARED(float, tile, [32][33]).
#define NEUROCUDA_SHARED(type, name, ...)   \
  alignas(16) static type name __VA_ARGS__; \
  ::neurocuda::emulation::Device::instance().static_shared(&name, sizeof(name))

// A pointer to the dynamic shared memory of the launch, aligned to 16 bytes.
#define NEUROCUDA_DYNAMIC_SHARED(type, name) \
  type* const name = reinterpret_cast<type*>(::neurocuda::emulation::Device::instance().dynamic_shared())
#else
#define NEUROCUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  do {                                                                   \
    kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__);  \
    ::neurocuda::cuda::check(cudaGetLastError(), "kernel " #kernel);     \
  } while (false)

#define NEUROCUDA_LOADS(bytes) static_cast<void>(0)
#define NEUROCUDA_STORES(bytes) static_cast<void>(0)

#define NEUROCUDA_SHARED(type, name, ...) __shared__ __align__(16) type name __VA_ARGS__

#define NEUROCUDA_DYNAMIC_SHARED(type, name)                         \
  extern __shared__ __align__(16) unsigned char neurocuda_shared_[]; \
  type* const name = reinterpret_cast<type*>(neurocuda_shared_)
#endif

namespace neurocuda::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error("neurocuda: " + std::string(what) + ": " + cudaGetErrorString(error));
}

// An attribute of the current device.
inline int attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
  return value;
}

// Sets the maximum dynamic shared memory of a kernel, which a launch with more than 48 KB requires.
template <class Kernel>
void allow_shared(Kernel* kernel, std::size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
}

}  // namespace neurocuda::cuda
