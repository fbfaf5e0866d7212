#include "cpu/neuron_backward_rows.h"

#include <cmath>

#include "cpu/multiversion.h"

namespace neurocuda::cpu {
namespace {

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

struct ReplayGeneralRow {
  NEUROCUDA_INLINE static void run(const NeuronKind* of, const ForwardRow* row, const CoefficientRows* rows) {
    const GeneralKind kind(*of);
    const ForwardRow r = *row;
    const CoefficientRows own = every_row(*rows);
#pragma GCC ivdep
    for (std::int64_t k = 0; k < r.count; ++k) {
      NeuronState state{r.v[k], r.i[k]};
      float u;
      update_general(kind, r.x[k], every_coefficient_at(own, k), state, u);
      r.u[k] = u;
      r.v[k] = state.v;
      r.i[k] = state.i;
    }
  }
};

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

// The gradient of update_general, with sums.
struct RetreatGeneralRow {
  NEUROCUDA_INLINE static void run(const NeuronKind* of, const BackwardRow* row,
                                   const CoefficientRows* rows) {
    const GeneralKind kind(*of);
    const BackwardRow r = *row;
    const CoefficientRows own = every_row(*rows);
#pragma GCC ivdep
    for (std::int64_t k = 0; k < r.count; ++k) {
      const NeuronCoefficients c = every_coefficient_at(own, k);
      const float u = r.u[k], spikes = r.spikes[k], slope = r.slope[k];
      const float late = late_spikes(kind, r.v[k], c);
      const float reset = after_reset(kind, u, spikes, c), arrived = r.a[k] + r.b[k];  // the latter of v
      const float below = select(kind.bounded, reset < c.v_min ? arrived : 0.0f, 0.0f);
      const float dv = select(kind.bounded, reset < c.v_min ? 0.0f : arrived, arrived);  // before the bound
      r.sums[kVMin][k] += below;
      const float du = slope + select(kind.replaces, spikes > 0.0f ? 0.0f : dv, dv);
      r.sums[kThreshold][k] += select(kind.late, -slope, select(kind.subtracts, -dv * spikes, 0.0f));
      r.sums[kThreshold][k] += select(kind.late, select(kind.late_subtracts, -du * late, 0.0f), -slope);
      const float to_v = du * c.decay_v;
      r.sums[kVReset][k] += select(kind.late_replaces, late > 0.0f ? to_v : 0.0f,
                                   select(kind.replaces, spikes > 0.0f ? dv : 0.0f, 0.0f));
      r.dv[k] = select(kind.late_replaces, late > 0.0f ? 0.0f : to_v, to_v);
      const float dcurrent = du * c.gain_v;
      const float after = updated_current(r.x[k], r.i[k], c);
      const float di = select(kind.previous, (r.trace_i[k] + r.di_current[k]) + r.di[k],
                              (r.trace_i[k] + r.di[k]) + dcurrent);  // of the current after the step
      r.di_current[k] = select(kind.previous, dcurrent, 0.0f);
      r.sums[kDecayI][k] += di * r.i[k];
      r.sums[kGainI][k] += di * r.x[k];
      r.dx[k] = select(kind.synapse, di * c.gain_i, dcurrent);
      r.di[k] = di * c.decay_i;
      r.sums[kDecayV][k] += du * decaying_potential(kind, r.v[k], late, c);
      r.sums[kGainV][k] += du * select(kind.synapse, select(kind.previous, r.i[k], after), r.x[k]);
      r.sums[kBiasV][k] += du;
    }
  }
};

}  // namespace

void replay_row(const NeuronKind& kind, const ForwardRow& row, const CoefficientRows& rows) {
  if (kind.general()) return run_version<ReplayGeneralRow>(&kind, &row, &rows);
  run_version<ReplayRow>(&kind, &row, &rows);
}

void differentiate_row(Surrogate surrogate, Fires fires, const float* u, const float* threshold,
                       const float* arriving, float scale, std::int64_t count, float* spikes, float* slope) {
  run_version<DifferentiateRow>(surrogate, fires, u, threshold, arriving, scale, count, spikes, slope);
}

void retreat_row(const NeuronKind& kind, bool sums, const BackwardRow& row, const CoefficientRows& rows) {
  if (kind.general()) return run_version<RetreatGeneralRow>(&kind, &row, &rows);
  run_version<RetreatRow>(&kind, sums, &row, &rows);
}

}  // namespace neurocuda::cpu
