#include "cpu/neuron_backward.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/coefficients.h"
#include "cpu/denormals.h"
#include "cpu/multiversion.h"
#include "cpu/signal.h"

namespace neurocuda::cpu {
namespace {

constexpr std::int64_t kHistory = 1 << 17;  // floats of a tile's past: about half of a second-level cache

// One step of a segment, forwards: the potential before the reset goes to u.
struct ForwardRow {
  const float* x;
  float* v;
  float* i;
  float* u;
  std::int64_t count;
};

// One step of a segment, backwards.
struct BackwardRow {
  const float *x, *v, *i;  // the input, and the state before the step
  const float* spikes;
  const float* slope;      // gradient of the potential before the reset, through the spikes
  const float *a, *b, *c;  // gradients of the state v after the step, in the order of their sum; c is of the
                           // output, where that is the state
  const float* trace_i;
  float* dv;               // gradient of the state v: after the step, to be replaced by that before it
  float *di, *di_current;  // likewise of i: through its decay; where u uses the previous current, through u
  float* dx;
  float* sums[kCoefficients];
  std::int64_t count;
};

template <Synapse synapse, Fires fires, Reset reset>
NEUROCUDA_INLINE void replay(const ForwardRow& row, const CoefficientRows& rows) {
  const ForwardRow r = row;
  const CoefficientRows own = rows;
#pragma GCC ivdep
  for (std::int64_t k = 0; k < r.count; ++k) {
    NeuronState state{r.v[k], synapse == Synapse::kNone ? 0.0f : r.i[k]};
    float u;
    update_neuron<synapse, fires, reset>(r.x[k], coefficients_at<synapse, fires, reset>(own, k), state, u);
    r.u[k] = u;
    r.v[k] = state.v;
    if (synapse != Synapse::kNone) r.i[k] = state.i;
  }
}

template <Synapse synapse, Fires fires>
NEUROCUDA_INLINE void replay(const NeuronKind& kind, const ForwardRow& row, const CoefficientRows& rows) {
  if (fires == Fires::kNever || kind.reset == Reset::kToValue) {
    replay<synapse, fires, Reset::kToValue>(row, rows);
  } else {
    replay<synapse, fires, Reset::kSubtract>(row, rows);
  }
}

template <Synapse synapse>
NEUROCUDA_INLINE void replay(const NeuronKind& kind, const ForwardRow& row, const CoefficientRows& rows) {
  switch (kind.fires) {
    case Fires::kNever:
      return replay<synapse, Fires::kNever>(kind, row, rows);
    case Fires::kAbove:
      return replay<synapse, Fires::kAbove>(kind, row, rows);
    case Fires::kReaching:
      return replay<synapse, Fires::kReaching>(kind, row, rows);
    case Fires::kMany:
      return replay<synapse, Fires::kMany>(kind, row, rows);
  }
}

struct ReplayRow {
  NEUROCUDA_INLINE static void run(const NeuronKind* kind, const ForwardRow* row,
                                   const CoefficientRows* rows) {
    switch (kind->synapse) {
      case Synapse::kNone:
        return replay<Synapse::kNone>(*kind, *row, *rows);
      case Synapse::kUpdated:
        return replay<Synapse::kUpdated>(*kind, *row, *rows);
      case Synapse::kPrevious:
        return replay<Synapse::kPrevious>(*kind, *row, *rows);
    }
  }
};

void replay_row(const NeuronKind& kind, const ForwardRow& row, const CoefficientRows& rows) {
  run_version<ReplayRow>(&kind, &row, &rows);
}

template <Surrogate surrogate>
NEUROCUDA_INLINE float derivative(float distance, float scale) {
  if (surrogate == Surrogate::kFastSigmoid) {
    const float root = 1.0f + scale * std::fabs(distance);
    return 1.0f / (root * root);
  }
  if (surrogate == Surrogate::kArctan) {
    const float root = scale * distance;
    return 1.0f / (1.0f + root * root);
  }
  const float height = 1.0f - scale * std::fabs(distance);
  return height < 0.0f ? 0.0f : height;
}

// Spikes, and the gradient that arrives at u through them: slope[k] = arriving[k] * derivative.
template <Surrogate surrogate, Fires fires>
NEUROCUDA_INLINE void differentiate(const float* u, const float* threshold, const float* arriving,
                                    float scale, std::int64_t count, float* spikes, float* slope) {
#pragma GCC ivdep
  for (std::int64_t k = 0; k < count; ++k) {
    float nearest = threshold[k];
    if (fires == Fires::kMany) {
      const float multiple = nearbyintf(u[k] / threshold[k]);
      nearest = threshold[k] * (multiple < 1.0f ? 1.0f : multiple);
    }
    spikes[k] = spikes_of<fires>(u[k], threshold[k]);
    slope[k] = arriving[k] * derivative<surrogate>(u[k] - nearest, scale);
  }
}

template <Surrogate surrogate>
NEUROCUDA_INLINE void differentiate(Fires fires, const float* u, const float* threshold,
                                    const float* arriving, float scale, std::int64_t count, float* spikes,
                                    float* slope) {
  if (fires == Fires::kMany) {
    differentiate<surrogate, Fires::kMany>(u, threshold, arriving, scale, count, spikes, slope);
  } else if (fires == Fires::kReaching) {
    differentiate<surrogate, Fires::kReaching>(u, threshold, arriving, scale, count, spikes, slope);
  } else {
    differentiate<surrogate, Fires::kAbove>(u, threshold, arriving, scale, count, spikes, slope);
  }
}

struct DifferentiateRow {
  NEUROCUDA_INLINE static void run(Surrogate surrogate, Fires fires, const float* u, const float* threshold,
                                   const float* arriving, float scale, std::int64_t count, float* spikes,
                                   float* slope) {
    switch (surrogate) {
      case Surrogate::kFastSigmoid:
        return differentiate<Surrogate::kFastSigmoid>(fires, u, threshold, arriving, scale, count, spikes,
                                                      slope);
      case Surrogate::kArctan:
        return differentiate<Surrogate::kArctan>(fires, u, threshold, arriving, scale, count, spikes, slope);
      case Surrogate::kTriangle:
        return differentiate<Surrogate::kTriangle>(fires, u, threshold, arriving, scale, count, spikes,
                                                   slope);
    }
  }
};

void differentiate_row(Surrogate surrogate, Fires fires, const float* u, const float* threshold,
                       const float* arriving, float scale, std::int64_t count, float* spikes, float* slope) {
  run_version<DifferentiateRow>(surrogate, fires, u, threshold, arriving, scale, count, spikes, slope);
}

// The gradient of update_neuron. Sums have the order in which autograd adds them.
template <Synapse synapse, bool fires, Reset reset, bool sums>
NEUROCUDA_INLINE void retreat(const BackwardRow& row, const CoefficientRows& rows) {
  const BackwardRow r = row;
  const CoefficientRows own = rows;
#pragma GCC ivdep
  for (std::int64_t k = 0; k < r.count; ++k) {
    const NeuronCoefficients c = coefficients_at<synapse, Fires::kNever, reset>(own, k);
    float du;  // of the potential before the reset
    if (!fires) {
      du = (r.a[k] + r.b[k]) + r.c[k];
    } else {
      const float dv = r.a[k] + r.b[k];  // of the potential after it
      if (reset == Reset::kToValue) {
        const bool fired = r.spikes[k] > 0.0f;
        du = r.slope[k] + (fired ? 0.0f : dv);
        if (sums) r.sums[kVReset][k] += fired ? dv : 0.0f;
      } else {
        du = r.slope[k] + dv;
        if (sums) r.sums[kThreshold][k] += -dv * r.spikes[k];
      }
      if (sums) r.sums[kThreshold][k] += -r.slope[k];
    }
    const float dcurrent = du * c.gain_v;
    float current = 0.0f;
    if (synapse == Synapse::kNone) {
      if (sums) current = r.x[k];
      r.dx[k] = dcurrent;
    } else {
      float di;  // of the current after the step
      if (synapse == Synapse::kUpdated) {
        if (sums) current = updated_current(r.x[k], r.i[k], c);
        di = (r.trace_i[k] + r.di[k]) + dcurrent;
      } else {
        if (sums) current = r.i[k];
        di = (r.trace_i[k] + r.di_current[k]) + r.di[k];
        r.di_current[k] = dcurrent;
      }
      if (sums) r.sums[kDecayI][k] += di * r.i[k];
      if (sums) r.sums[kGainI][k] += di * r.x[k];
      r.dx[k] = di * c.gain_i;
      r.di[k] = di * c.decay_i;
    }
    if (sums) r.sums[kDecayV][k] += du * r.v[k];
    if (sums) r.sums[kGainV][k] += du * current;
    if (sums) r.sums[kBiasV][k] += du;
    r.dv[k] = du * c.decay_v;
  }
}

template <Synapse synapse, bool sums>
NEUROCUDA_INLINE void retreat(const NeuronKind& kind, const BackwardRow& row, const CoefficientRows& rows) {
  if (kind.fires == Fires::kNever) {
    retreat<synapse, false, Reset::kToValue, sums>(row, rows);
  } else if (kind.reset == Reset::kToValue) {
    retreat<synapse, true, Reset::kToValue, sums>(row, rows);
  } else {
    retreat<synapse, true, Reset::kSubtract, sums>(row, rows);
  }
}

template <Synapse synapse>
NEUROCUDA_INLINE void retreat(const NeuronKind& kind, bool sums, const BackwardRow& row,
                              const CoefficientRows& rows) {
  if (sums) {
    retreat<synapse, true>(kind, row, rows);
  } else {
    retreat<synapse, false>(kind, row, rows);
  }
}

struct RetreatRow {
  NEUROCUDA_INLINE static void run(const NeuronKind* kind, bool sums, const BackwardRow* row,
                                   const CoefficientRows* rows) {
    switch (kind->synapse) {
      case Synapse::kNone:
        return retreat<Synapse::kNone>(*kind, sums, *row, *rows);
      case Synapse::kUpdated:
        return retreat<Synapse::kUpdated>(*kind, sums, *row, *rows);
      case Synapse::kPrevious:
        return retreat<Synapse::kPrevious>(*kind, sums, *row, *rows);
    }
  }
};

void retreat_row(const NeuronKind& kind, bool sums, const BackwardRow& row, const CoefficientRows& rows) {
  run_version<RetreatRow>(&kind, sums, &row, &rows);
}

// The gradients of one tile: its forward pass, recomputed, and the gradients of the current step.
class Tile {
 public:
  Tile(const NeuronBackwardParams& params, std::int64_t size)
      : params_(params),
        size_(size),
        fires_(params.kind.fires != Fires::kNever),
        synapse_(params.kind.synapse != Synapse::kNone),
        sums_(std::any_of(params.to_coefficients, params.to_coefficients + kCoefficients,
                          [](const Signal& signal) { return signal.data != nullptr; })),
        coefficients_(params.coefficients, size, kBlock, TileCoefficients::Cut::kRows),
        u_(fires_ ? params.steps * size : 0),
        x_(sums_ ? params.steps * size : 0),
        v_(sums_ ? params.steps * size : 0),
        i_(sums_ && synapse_ ? params.steps * size : 0),
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
        row.i = synapse_ ? i + segment.first : nullptr;
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
        if (sums_ && synapse_) std::copy_n(row.i, segment.count, i_.data() + at);
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
    row.spikes = spikes;
    row.slope = slope;
    if (sums_) {
      row.x = x_.data() + at;
      row.v = v_.data() + at;
      row.i = synapse_ ? i_.data() + at : nullptr;
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
  const bool fires_, synapse_, sums_;
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
