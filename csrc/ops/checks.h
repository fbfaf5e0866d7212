// Questions about the values of tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "params/checks.h"

#if defined(NEUROCUDA_WITH_CUDA)
#include <c10/core/Event.h>
#endif

namespace neurocuda {

// Whether all that was asked is so. Of tensors on the CPU that is known at once. A GPU is asked on the
// current stream, and answers when it has done what was launched before; until then more can be launched.
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

  // Whether contiguous float32 weights [out, ...] on the CPU are int8 numbers times a step for each output
  // channel.
  void ask_integers(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& numbers,
                    const std::vector<at::Tensor>& steps);

  // Waits for the answer.
  bool wait();

 private:
  void ask(const SameBitsParams& params, const at::Tensor& like);
  int* no(const at::Tensor& like);
  void asked(const at::Tensor& like);

  bool yes_ = true, pinned_ = false;
  at::Tensor no_;  // one number in memory of the CPU that GPUs write to; undefined where none was asked
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
