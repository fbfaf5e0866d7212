// In which order threads share the frames of a call, all samples of a step and then those of the next.
//
// Populations are shared by neurons, a thread's over all steps. Layers that share whole samples, as far as
// there are enough, leave to a thread what it goes on with: where cores have caches apart, what another wrote
// is far away.
#pragma once

#include <cstdint>

namespace neurocuda::cpu {

// How many samples there are in the calls of this thread, while this lives; only a hint.
class Samples {
 public:
  explicit Samples(std::int64_t count) : before_(current()) { current() = count; }
  ~Samples() { current() = before_; }
  Samples(const Samples&) = delete;
  Samples& operator=(const Samples&) = delete;

  static std::int64_t& current() {
    static thread_local std::int64_t count = 1;
    return count;
  }

 private:
  std::int64_t before_;
};

// The frame at a place of the order: sample after sample where several threads share them, else as they lie.
struct FrameOrder {
  std::int64_t steps, samples;

  static FrameOrder of(std::int64_t frames, int threads) {
    const std::int64_t samples = Samples::current();
    const bool shared = threads > 1 && samples > 1 && frames % samples == 0;
    return shared ? FrameOrder{frames / samples, samples} : FrameOrder{frames, 1};
  }
  bool as_they_lie() const { return samples == 1; }
  std::int64_t operator()(std::int64_t place) const { return place % steps * samples + place / steps; }
};

}  // namespace neurocuda::cpu
