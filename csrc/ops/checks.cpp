#include "ops/checks.h"

#include <ATen/Parallel.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <utility>

#include "cpu/checks.h"
#include "cpu/denormals.h"
#include "ops/layout.h"
#include "ops/on_device.h"

#if defined(NEUROCUDA_WITH_CUDA)
#include <c10/core/impl/VirtualGuardImpl.h>
#endif

namespace neurocuda {
namespace {

// Whether the kernels can read it as one piece of memory: dense, on the CPU or a GPU.
bool plain(const at::Tensor& tensor) {
  return tensor.has_storage() && (tensor.is_cpu() || tensor.is_cuda()) &&
         tensor.is_non_overlapping_and_dense();
}

constexpr std::int64_t kGrain = 1 << 16;

bool on_cpu_finite(const at::Tensor& tensor) {
  const float* values = tensor.const_data_ptr<float>();
  std::atomic<bool> finite = true;
  at::parallel_for(0, tensor.numel(), kGrain, [&](std::int64_t first, std::int64_t last) {
    if (!cpu::all_finite(values + first, last - first)) finite = false;
  });
  return finite;
}

bool same_on_cpu(const char* left, const char* right, std::int64_t bytes) {
  std::atomic<bool> same = true;
  at::parallel_for(0, bytes, 4 * kGrain, [&](std::int64_t first, std::int64_t last) {
    if (!cpu::same_bytes(left + first, right + first, last - first)) same = false;
  });
  return same;
}

// Unused flags, zero, that GPUs can write to: allocating pinned memory takes long.
class Flags {
 public:
  static Flags& of(bool pinned) {
    static auto* const flags = new Flags[2];  // never destroyed: the driver may be gone by then
    return flags[pinned ? 1 : 0];
  }
  at::Tensor take(bool pinned) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        at::Tensor flag = std::move(free_.back());
        free_.pop_back();
        return flag;
      }
    }
    return at::zeros({1}, at::TensorOptions().dtype(at::kInt).pinned_memory(pinned));
  }
  void give(at::Tensor flag) {
    *flag.mutable_data_ptr<int>() = 0;
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(flag));
  }

 private:
  std::mutex mutex_;
  std::vector<at::Tensor> free_;
};

}  // namespace

Answer::Answer(Answer&& other) noexcept = default;

Answer::~Answer() {
  try {
    wait();  // memory that a GPU may still write to must not go to others
  } catch (...) {
  }
}

int* Answer::no(const at::Tensor& like) {
  if (!no_.defined()) {
    pinned_ = like.is_cuda();
    no_ = Flags::of(pinned_).take(pinned_);
  }
  return no_.mutable_data_ptr<int>();
}

void Answer::asked([[maybe_unused]] const at::Tensor& like) {
#if defined(NEUROCUDA_WITH_CUDA)
  if (!like.is_cuda()) return;
  const c10::impl::VirtualGuardImpl device(c10::DeviceType::CUDA);
  if (asked_.empty() || asked_.back().device() != like.device()) asked_.emplace_back(c10::DeviceType::CUDA);
  asked_.back().record(device.getStream(like.device()));
#endif
}

bool Answer::wait() {
#if defined(NEUROCUDA_WITH_CUDA)
  for (const c10::Event& event : asked_) event.synchronize();
  asked_.clear();
#endif
  if (no_.defined()) {
    yes_ = yes_ && *no_.const_data_ptr<int>() == 0;
    Flags::of(pinned_).give(std::move(no_));
    no_.reset();
  }
  return yes_;
}

void Answer::ask_finite(const at::Tensor& tensor) {
  const bool half = tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
  if (!plain(tensor) || !(tensor.scalar_type() == at::kFloat || (half && computes_on_cuda(tensor)))) {
    yes_ = yes_ && at::isfinite(tensor).all().item<bool>();
    return;
  }
  on_device(
      tensor,
      [&](cuda::Stream stream) {
        cuda::all_finite(
            {tensor.const_data_ptr(), tensor.numel(), element_of(tensor.scalar_type()), no(tensor)}, stream);
        asked(tensor);
      },
      [&] { yes_ = yes_ && on_cpu_finite(tensor); });
}

void Answer::ask_on_grid(const at::Tensor& tensor, double step, double low, double high) {
  on_device(
      tensor,
      [&](cuda::Stream stream) {
        cuda::on_grid({tensor.const_data_ptr<float>(), tensor.numel(), static_cast<float>(step),
                       static_cast<float>(low), static_cast<float>(high), no(tensor)},
                      stream);
        asked(tensor);
      },
      [&] { yes_ = yes_ && on_grid(tensor, step, low, high); });
}

void Answer::ask_same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  yes_ = yes_ && a.size() == b.size();
  SameBitsParams params{};
  const at::Tensor* like = nullptr;  // of the pairs in the call
  for (std::size_t at = 0; yes_ && at < a.size(); ++at) {
    const at::Tensor &left = a[at], &right = b[at];
    yes_ = left.scalar_type() == right.scalar_type() && left.sizes() == right.sizes() &&
           left.strides() == right.strides() && left.device() == right.device();
    if (!yes_ || left.const_data_ptr() == right.const_data_ptr()) continue;
    yes_ = plain(left);
    if (!yes_) continue;
    if (params.count == SameBitsParams::kMost || (params.count > 0 && like->device() != left.device())) {
      ask(params, *like);
      params.count = 0;
    }
    like = &left;
    params.pairs[params.count++] = {left.const_data_ptr(), right.const_data_ptr(),
                                    static_cast<std::int64_t>(left.nbytes())};
  }
  if (yes_ && params.count > 0) ask(params, *like);
}

void Answer::ask_integers(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& numbers,
                          const std::vector<at::Tensor>& steps) {
  yes_ = yes_ && same_integers(weights, numbers, steps);
}

void Answer::ask(const SameBitsParams& given, const at::Tensor& like) {
  on_device(
      like,
      [&](cuda::Stream stream) {
        SameBitsParams params = given;
        params.no = no(like);
        cuda::same_bits(params, stream);
        asked(like);
      },
      [&] {
        for (int pair = 0; yes_ && pair < given.count; ++pair) {
          const auto [left, right, bytes] = given.pairs[pair];
          yes_ = same_on_cpu(static_cast<const char*>(left), static_cast<const char*>(right), bytes);
        }
      });
}

bool all_finite(const at::Tensor& tensor) {
  Answer answer;
  answer.ask_finite(tensor);
  return answer.wait();
}

bool same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  Answer answer;
  answer.ask_same_bits(a, b);
  return answer.wait();
}

bool on_grid(const at::Tensor& tensor, double step, double low, double high) {
  const float* values = tensor.const_data_ptr<float>();
  std::atomic<bool> yes = true;
  at::parallel_for(0, tensor.numel(), kGrain, [&](std::int64_t first, std::int64_t last) {
    const cpu::KeepSubnormals guard;  // which are on no grid
    if (!cpu::on_grid(values + first, last - first, static_cast<float>(step), static_cast<float>(low),
                      static_cast<float>(high))) {
      yes = false;
    }
  });
  return yes;
}

bool same_integers(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& numbers,
                   const std::vector<at::Tensor>& steps) {
  std::vector<std::int64_t> begin{0};  // of each layer, among the weights of all
  for (std::size_t layer = 0; layer < weights.size(); ++layer) {
    const at::Tensor& weight = weights[layer];
    if (weight.scalar_type() != at::kFloat || !weight.is_cpu() || !weight.is_contiguous() ||
        weight.sizes() != numbers[layer].sizes()) {
      return false;
    }
    begin.push_back(begin.back() + weight.numel());
  }
  std::atomic<bool> yes = true;
  // All layers at once, so that threads wait for each other once; the thread that has a channel's first
  // weight checks it.
  at::parallel_for(0, begin.back(), kGrain, [&](std::int64_t first, std::int64_t last) {
    const cpu::KeepSubnormals guard;
    for (std::size_t layer = 0; layer < weights.size(); ++layer) {
      const std::int64_t from = std::max(first, begin[layer]) - begin[layer],
                         to = std::min(last, begin[layer + 1]) - begin[layer];
      if (from >= to) continue;
      const std::int64_t each = weights[layer].numel() / weights[layer].size(0);
      const float* values = weights[layer].const_data_ptr<float>();
      const std::int8_t* wanted = numbers[layer].const_data_ptr<std::int8_t>();
      const float* step = steps[layer].const_data_ptr<float>();
      for (std::int64_t channel = (from + each - 1) / each; channel * each < to; ++channel) {
        if (!cpu::same_integers(values + channel * each, wanted + channel * each, each, step[channel])) {
          yes = false;
          return;
        }
      }
    }
  });
  return yes;
}

}  // namespace neurocuda
