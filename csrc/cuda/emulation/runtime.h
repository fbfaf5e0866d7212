// The functions of the CUDA runtime that launchers use.
#pragma once

#include <cstdlib>
#include <tuple>

#include "cuda/emulation/block.h"

using cudaStream_t = struct CUstream_st*;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

namespace neurocuda::emulation {

// A setting of the emulated device, from the environment variable of that name.
inline int setting(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

}  // namespace neurocuda::emulation

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }  // a failed launch throws

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

// An sm_90 device with few multiprocessors, so that small tests run the kernels for large populations:
// NEUROCUDA_EMULATION_PROCESSORS of them, with NEUROCUDA_EMULATION_SHARED bytes of shared memory per block.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  using neurocuda::emulation::setting;
  *value = attribute == cudaDevAttrMultiProcessorCount ? setting("NEUROCUDA_EMULATION_PROCESSORS", 1)
                                                       : setting("NEUROCUDA_EMULATION_SHARED", 227 << 10);
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute /*attribute*/, int value) {
  int most = 0;
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  if (value > most) return cudaErrorInvalidValue;
  neurocuda::emulation::Device::instance().allow_shared(reinterpret_cast<const void*>(kernel), value);
  return cudaSuccess;
}

namespace neurocuda::emulation {

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared,
            Arguments&&... arguments) {
  struct Launch {
    void (*kernel)(Parameters...);
    std::tuple<std::remove_const_t<Parameters>...> parameters;
  } launch{kernel, {std::forward<Arguments>(arguments)...}};
  const auto thread = [](void* context) {
    const Launch& launch = *static_cast<Launch*>(context);
    std::apply(launch.kernel, launch.parameters);
  };
  Device::instance().launch(name, reinterpret_cast<const void*>(kernel), grid, block, shared, thread,
                            &launch);
}

}  // namespace neurocuda::emulation
