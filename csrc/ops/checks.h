// Checks of the values of tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "params/checks.h"

#if defined(NEUROCUDA_WITH_CUDA)
#include <c10/core/Event.h>
#endif

namespace neurocuda {

// A set of checks, and whether all of them hold. Those of CPU tensors run at once. Those of GPU tensors are
// queued on the current stream; `wait` waits for them alone, and more can be launched before it.
class Answer {
 public:
  Answer() = default;
  Answer(Answer&& other) noexcept;
  Answer& operator=(Answer&&) = delete;
  ~Answer();

  // Whether every number is finite.
  void ask_finite(const at::Tensor& tensor);
  // Whether two lists of tensors agree in shapes, strides, types and every bit. Tensors that share their
  // memory do.
  void ask_same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b);

  // Whether all values of a contiguous float32 tensor are multiples of `step`, a power of two, from low to
  // high.
  void ask_on_grid(const at::Tensor& tensor, double step, double low, double high);

  // Whether contiguous float32 weights [out, ...] on the CPU are int8 numbers times a scale for each output
  // channel.
  void ask_integers(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& numbers,
                    const std::vector<at::Tensor>& steps);

  // Waits for the checks, and returns whether all hold.
  bool wait();

 private:
  void ask(const SameBitsParams& params, const at::Tensor& like);
  int* no(const at::Tensor& like);
  void asked(const at::Tensor& like);

  bool yes_ = true, pinned_ = false;
  at::Tensor no_;  // [1] on the CPU, written by GPUs: 1 if a check failed; undefined before the first check
#if defined(NEUROCUDA_WITH_CUDA)
  std::vector<c10::Event> asked_;  // on each GPU
#endif
};

bool all_finite(const at::Tensor& tensor);
bool same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b);

// Whether all values of a contiguous float32 tensor on the CPU are multiples of `step`, a power of two, from
// low to high.
bool on_grid(const at::Tensor& tensor, double step, double low, double high);

// As `Answer::ask_integers`.
bool same_integers(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& numbers,
                   const std::vector<at::Tensor>& steps);

}  // namespace neurocuda
