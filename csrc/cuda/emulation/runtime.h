// What launchers need of the CUDA runtime, for the emulation.
#pragma once

#include <cstdlib>
#include <tuple>

#include "cuda/emulation/block.h"

using cudaStream_t = struct CUstream_st*;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};

enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrCooperativeLaunch = 95,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

namespace neurocuda::emulation {

// A number of the emulated device that a test may set.
inline int setting(const char* name, int otherwise) {
  const char* given = std::getenv(name);
  return given == nullptr ? otherwise : std::atoi(given);
}

}  // namespace neurocuda::emulation

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }  // a launch that fails throws
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

// An sm_90 of few multiprocessors, so that small tests reach the kernels for large populations:
// NEUROCUDA_EMULATION_PROCESSORS of them, with NEUROCUDA_EMULATION_SHARED bytes of shared memory for a block.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  using neurocuda::emulation::setting;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = setting("NEUROCUDA_EMULATION_PROCESSORS", 1);
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(neurocuda::emulation::kStaticShared);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = setting("NEUROCUDA_EMULATION_SHARED", 227 << 10);
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = setting("NEUROCUDA_EMULATION_SHARED", 227 << 10) + 1024;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 50 << 20;
      break;
    default:
      *value = 0;
  }
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  int most = 0;
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  if (value > most) return cudaErrorInvalidValue;
  neurocuda::emulation::Device::instance().allow_shared(reinterpret_cast<const void*>(kernel), value);
  return cudaSuccess;
}

// How many blocks fit, by threads and dynamic shared memory alone.
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel* /*kernel*/, int threads,
                                                          std::size_t shared) {
  int bytes = 0;
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, 0);
  *blocks = std::min(32, 2048 / threads);
  if (shared > 0) *blocks = std::min(*blocks, static_cast<int>(bytes / (shared + 1024)));
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t /*stream*/) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

namespace neurocuda::emulation {

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared,
            Arguments&&... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::remove_const_t<Parameters>...> parameters;
  } call{kernel, {std::forward<Arguments>(arguments)...}};
  const auto thread = [](void* context) {
    const Call& call = *static_cast<Call*>(context);
    std::apply(call.kernel, call.parameters);
  };
  Device::instance().launch(name, reinterpret_cast<const void*>(kernel), grid, block, shared, thread, &call);
}

}  // namespace neurocuda::emulation
