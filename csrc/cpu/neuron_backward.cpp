#include "cpu/neuron_backward.h"

#include <algorithm>
#include <vector>

#include "cpu/coefficients.h"
#include "cpu/denormals.h"
#include "cpu/neuron_backward_rows.h"
#include "cpu/signal.h"

namespace neurocuda::cpu {
namespace {

constexpr std::int64_t kHistory = 1 << 17;  // floats of a tile's past: about half of a second-level cache

// The gradients of one tile: its forward pass, recomputed, and the gradients of the current step.
class Tile {
 public:
  Tile(const NeuronBackwardParams& params, std::int64_t size)
      : params_(params),
        size_(size),
        fires_(params.kind.fires != Fires::kNever),
        synapse_(params.kind.synapse != Synapse::kNone),
        sums_(params.kind.general() ||
              std::any_of(params.to_coefficients, params.to_coefficients + kCoefficients,
                          [](const Signal& signal) { return signal.data != nullptr; })),
        currents_(synapse_ || params.kind.general()),
        coefficients_(params.coefficients, size, kBlock, TileCoefficients::Cut::kRows),
        u_(fires_ ? params.steps * size : 0),
        x_(sums_ ? params.steps * size : 0),
        v_(sums_ ? params.steps * size : 0),
        i_(sums_ && currents_ ? params.steps * size : 0),
        state_(2 * size),
        gradients_(3 * size),
        totals_(sums_ ? kCoefficients * size : 0) {}

  // The size of a tile whose past stays in the cache.
  static std::int64_t size_for(const NeuronBackwardParams& params, std::int64_t neurons) {
    const std::int64_t fit = kHistory / (4 * std::max<std::int64_t>(params.steps, 1)) / 64 * 64;
    return std::min(neurons, std::clamp<std::int64_t>(fit, 64, 2048));
  }

  void run(std::int64_t start, std::int64_t count) {
    start_ = start;
    segments_ = &coefficients_.cut(start, count);
    if (fires_ || sums_) forwards();
    backwards();
  }

 private:
  void forwards() {
    float* v = state_.data();
    float* i = v + size_;
    for (const Segment& segment : *segments_) {
      read_row(params_.v, 0, start_ + segment.first, segment.count, v + segment.first);
      if (synapse_) read_row(params_.i, 0, start_ + segment.first, segment.count, i + segment.first);
    }
    const bool alone = params_.branch_count == 1 && params_.branches[0].direct() && !sums_;
    alignas(64) float sum[kBlock];
    alignas(64) float unused[kBlock];
    for (std::int64_t step = 0; step < params_.steps; ++step) {
      for (const Segment& segment : *segments_) {
        const std::int64_t at = step * size_ + segment.first, first = start_ + segment.first;
        ForwardRow row{};
        row.v = v + segment.first;
        row.i = currents_ ? i + segment.first : nullptr;
        row.u = fires_ ? u_.data() + at : unused;
        row.count = segment.count;
        for (int branch = 0; branch < params_.branch_count; ++branch) {
          prefetch_row(params_.branches[branch], std::min(step + 1, params_.steps - 1), first, segment.count);
        }
        if (alone) {
          row.x = params_.branches[0].row(step, first);
        } else {
          float* x = sums_ ? x_.data() + at : sum;
          sum_rows(params_.branches, params_.branch_count, step, first, segment.count, x);
          row.x = x;
        }
        if (sums_) std::copy_n(row.v, segment.count, v_.data() + at);
        if (sums_ && currents_) std::copy_n(row.i, segment.count, i_.data() + at);
        replay_row(params_.kind, row, segment.rows);
      }
    }
  }

  void backwards() {
    std::fill(gradients_.begin(), gradients_.end(), 0.0f);
    std::fill(totals_.begin(), totals_.end(), 0.0f);
    float* dv = gradients_.data();
    float* di = dv + size_;
    for (const Segment& segment : *segments_) {
      const std::int64_t first = start_ + segment.first;
      if (params_.of_v.data != nullptr) read_row(params_.of_v, 0, first, segment.count, dv + segment.first);
      if (params_.of_i.data != nullptr) read_row(params_.of_i, 0, first, segment.count, di + segment.first);
    }
    for (std::int64_t step = params_.steps - 1; step >= 0; --step) {
      for (const Segment& segment : *segments_) backwards(step, segment);
    }
    for (const Segment& segment : *segments_) leave(segment);
  }

  void backwards(std::int64_t step, const Segment& segment) {
    alignas(64) float of_output[kBlock], of_v[kBlock], of_i[kBlock], dx[kBlock];
    alignas(64) float spikes[kBlock], slope[kBlock];
    const std::int64_t at = step * size_ + segment.first, count = segment.count;
    const float* arriving = arrived(params_.of_output, step, segment, of_output);
    const bool last = step == params_.steps - 1;  // autograd adds the gradient of the last state first
    BackwardRow row{};
    row.count = count;
    row.dv = gradients_.data() + segment.first;
    row.di = row.dv + size_;
    row.di_current = row.di + size_;
    row.a = arrived(params_.of_trace_v, step, segment, of_v);
    row.b = fires_ || last ? row.dv : arriving;
    row.c = last ? arriving : row.dv;
    row.trace_i = arrived(params_.of_trace_i, step, segment, of_i);
    const bool direct = params_.to_branches.data != nullptr && params_.to_branches.direct();
    row.dx = direct ? params_.to_branches.row(step, start_ + segment.first) : dx;
    if (fires_) {
      differentiate_row(params_.surrogate, params_.kind.fires, u_.data() + at,
                        segment.rows.values[kThreshold], arriving, params_.scale, count, spikes, slope);
      if (params_.of_output.data == nullptr) std::fill_n(slope, count, 0.0f);  // 0 * NaN is not 0
    }
    row.u = u_.data() + at;
    row.spikes = spikes;
    row.slope = slope;
    if (sums_) {
      row.x = x_.data() + at;
      row.v = v_.data() + at;
      row.i = currents_ ? i_.data() + at : nullptr;
      for (int name = 0; name < kCoefficients; ++name) {
        row.sums[name] = totals_.data() + name * size_ + segment.first;
      }
    }
    retreat_row(params_.kind, sums_, row, segment.rows);
    if (params_.to_branches.data != nullptr && !direct) {
      write_row(params_.to_branches, step, start_ + segment.first, count, dx);
    }
  }

  // A gradient that arrives, in place or in `copy`; zeros if there is none.
  const float* arrived(const Signal& signal, std::int64_t step, const Segment& segment, float* copy) const {
    static constexpr float kZeros[kBlock] = {};
    if (signal.data == nullptr) return kZeros;
    const std::int64_t first = start_ + segment.first;
    prefetch_row(signal, std::max<std::int64_t>(step - 1, 0), first, segment.count);
    if (signal.direct()) return signal.row(step, first);
    read_row(signal, step, first, segment.count, copy);
    return copy;
  }

  void leave(const Segment& segment) {
    const std::int64_t first = start_ + segment.first;
    float* dv = gradients_.data() + segment.first;
    float* di = dv + size_;
    if (params_.to_v.data != nullptr) write_row(params_.to_v, 0, first, segment.count, dv);
    if (params_.to_i.data != nullptr) {
      for (std::int64_t k = 0; k < segment.count; ++k) di[k] += di[k + size_];
      write_row(params_.to_i, 0, first, segment.count, di);
    }
    for (int name = 0; name < kCoefficients; ++name) {
      if (params_.to_coefficients[name].data == nullptr) continue;
      write_row(params_.to_coefficients[name], 0, first, segment.count,
                totals_.data() + name * size_ + segment.first);
    }
  }

  const NeuronBackwardParams& params_;
  const std::int64_t size_;
  const bool fires_, synapse_;
  const bool sums_;      // of the coefficients' gradients; kinds that are general() always have them
  const bool currents_;  // whether there are rows of i; without a synapse, zeros
  TileCoefficients coefficients_;
  std::vector<float> u_, x_, v_, i_;  // by step: potentials before the reset, inputs, states before the step
  std::vector<float> state_, gradients_, totals_;
  const std::vector<Segment>* segments_ = nullptr;
  std::int64_t start_ = 0;
};

}  // namespace

void neuron_backward(const NeuronBackwardParams& params, std::int64_t first, std::int64_t last) {
  const KeepSubnormals guard;
  const std::int64_t size = Tile::size_for(params, last - first);
  Tile tile(params, size);
  for (std::int64_t start = first; start < last; start += size) tile.run(start, std::min(size, last - start));
}

}  // namespace neurocuda::cpu
