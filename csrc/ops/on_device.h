// Where a call is computed: by the CPU's kernels, or by those for CUDA, on a device or emulated.
#pragma once

#include <ATen/core/Tensor.h>

#include "cuda/kernels.h"

#if defined(NEUROCUDA_WITH_CUDA)
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace neurocuda {

// Whether the kernels for CUDA compute on such a tensor. In an emulated build the CPU stands for a CUDA
// device.
inline bool computes_on_cuda([[maybe_unused]] const at::Tensor& tensor) {
#if defined(NEUROCUDA_EMULATED)
  return true;
#elif defined(NEUROCUDA_WITH_CUDA)
  return tensor.is_cuda();
#else
  return false;
#endif
}

// Computes on the tensor's device: on_cuda(stream) on its device and the current stream of that, or on_cpu().
template <class OnCuda, class OnCpu>
void on_device([[maybe_unused]] const at::Tensor& tensor, [[maybe_unused]] OnCuda&& on_cuda,
               [[maybe_unused]] OnCpu&& on_cpu) {
#if defined(NEUROCUDA_EMULATED)
  on_cuda(cuda::Stream());
#else
#if defined(NEUROCUDA_WITH_CUDA)
  if (tensor.is_cuda()) {
    const c10::cuda::CUDAGuard guard(tensor.device());
    return on_cuda(c10::cuda::getCurrentCUDAStream().stream());
  }
#endif
  on_cpu();
#endif
}

}  // namespace neurocuda
