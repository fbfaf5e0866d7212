#include "cpu/recurrent_neuron.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "cpu/coefficients.h"
#include "cpu/denormals.h"
#include "cpu/event_sum.h"
#include "cpu/ordered_linear.h"
#include "cpu/signal.h"
#include "cpu/spike_list.h"
#include "cpu/vector.h"

namespace neurocuda::cpu {

namespace {

// Rows of a sample, each of `padded` floats; those after the last neuron are not used.
struct Sample {
  NeuronKind kind;
  std::int64_t neurons, padded;
  const float* weight;
  const float* bias;
  int branch_count, place;
  const float* branches[kMaxBranches];
  std::int32_t* events;  // neurons that spiked in the step before
  float* values;         // of the events, or null where all are 1
  std::int64_t count;
  CoefficientRows rows;
  float *recurrent, *sum, *v, *i, *output;
};

// The recurrent current, and the sum of the branches with it in its place, left fold.
struct Recur {
  template <int lanes, int vectors>
  static NEUROCUDA_INLINE void columns(const Sample& job, std::int64_t& column) {
    for (; column + vectors * lanes <= job.padded; column += vectors * lanes) {
      Vector<lanes> sum[vectors] = {};
      sum_events<lanes, vectors>(job.weight + column, job.padded, job.events, job.values, job.count, sum);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        const std::int64_t at = column + v * lanes;
        if (job.bias) sum[v] = sum[v] + load<lanes>(job.bias + at);
        store<lanes>(job.recurrent + at, sum[v]);
        Vector<lanes> total = sum[v];
        if (job.place > 0) {
          total = load<lanes>(job.branches[0] + at);
          for (int branch = 1; branch < job.place; ++branch)
            total = total + load<lanes>(job.branches[branch] + at);
          total = total + sum[v];
        }
        for (int branch = job.place; branch < job.branch_count; ++branch)
          total = total + load<lanes>(job.branches[branch] + at);
        store<lanes>(job.sum + at, total);
      }
    }
  }

  template <int lanes, int registers>
  static NEUROCUDA_INLINE void run(const Sample& given) {
    const Sample job = given;  // a copy, which no store can change
    std::int64_t column = 0;
    columns<lanes, 8>(job, column);
    columns<lanes, 3>(job, column);
    columns<lanes, 1>(job, column);
  }
};

// One step of all neurons, from their sum of inputs.
struct Update {
  template <Synapse synapse, Fires fires, Reset reset>
  static NEUROCUDA_INLINE void update(const Sample& job) {
    const CoefficientRows rows = job.rows;
    const float* sum = job.sum;
    float *v = job.v, *i = job.i, *output = job.output;
    const std::int64_t count = job.padded;
#pragma GCC ivdep
    for (std::int64_t k = 0; k < count; ++k) {
      NeuronState state{v[k], synapse == Synapse::kNone ? 0.0f : i[k]};
      float u;
      output[k] = update_neuron<synapse, fires, reset>(
          sum[k], coefficients_at<synapse, fires, reset>(rows, k), state, u);
      v[k] = state.v;
      if (synapse != Synapse::kNone) i[k] = state.i;
    }
  }
};

template <Synapse synapse, Fires fires, Reset reset>
struct UpdateOf {
  template <int lanes, int registers>
  static NEUROCUDA_INLINE void run(const Sample& job) {
    Update::update<synapse, fires, reset>(job);
  }
};

// With a late reset or a lower bound.
struct UpdateGeneral {
  template <int lanes, int registers>
  static NEUROCUDA_INLINE void run(const Sample& job) {
    const GeneralKind kind(job.kind);
    const CoefficientRows rows = job.rows;
    const float* sum = job.sum;
    float *v = job.v, *i = job.i, *output = job.output;
    const std::int64_t count = job.padded;
#pragma GCC ivdep
    for (std::int64_t k = 0; k < count; ++k) {
      NeuronState state{v[k], i[k]};
      float u;
      output[k] = update_general(kind, sum[k], every_coefficient_at(rows, k), state, u);
      v[k] = state.v;
      i[k] = state.i;
    }
  }
};

using UpdateStep = void (*)(const Sample& job, std::int64_t width);

template <Synapse synapse, Fires fires>
UpdateStep update_of(Reset reset) {
  if (fires == Fires::kNever || reset == Reset::kToValue)
    return run_best<UpdateOf<synapse, fires, Reset::kToValue>, Sample>;
  return run_best<UpdateOf<synapse, fires, Reset::kSubtract>, Sample>;
}

template <Synapse synapse>
UpdateStep update_of(const NeuronKind& kind) {
  switch (kind.fires) {
    case Fires::kNever:
      return update_of<synapse, Fires::kNever>(kind.reset);
    case Fires::kAbove:
      return update_of<synapse, Fires::kAbove>(kind.reset);
    case Fires::kReaching:
      return update_of<synapse, Fires::kReaching>(kind.reset);
    default:
      return update_of<synapse, Fires::kMany>(kind.reset);
  }
}

UpdateStep update_of(const NeuronKind& kind) {
  if (kind.general()) return run_best<UpdateGeneral, Sample>;
  switch (kind.synapse) {
    case Synapse::kNone:
      return update_of<Synapse::kNone>(kind);
    case Synapse::kUpdated:
      return update_of<Synapse::kUpdated>(kind);
    default:
      return update_of<Synapse::kPrevious>(kind);
  }
}

void read(const Signal& signal, std::int64_t step, std::int64_t first, std::int64_t count, float* to) {
  for (std::int64_t at = 0; at < count; at += kBlock)
    read_row(signal, step, first + at, std::min(kBlock, count - at), to + at);
}

void write(const Signal& signal, std::int64_t step, std::int64_t first, std::int64_t count,
           const float* from) {
  if (signal.data == nullptr) return;
  for (std::int64_t at = 0; at < count; at += kBlock)
    write_row(signal, step, first + at, std::min(kBlock, count - at), from + at);
}

// Where the rows of a branch are read: in place if a whole vector may be read after each neuron, or in a
// copy.
class Branch {
 public:
  Branch(const Signal& signal, const RecurrentParams& params, std::int64_t padded, float* copy)
      : signal_(signal), neurons_(params.neurons), padded_(padded), copy_(copy) {
    if (signal.direct() && signal.time_stride >= 0)
      end_ = signal.row(params.steps - 1, params.samples * params.neurons);
  }

  const float* row(std::int64_t step, std::int64_t first) const {
    if (end_ != nullptr) {
      const float* in_place = signal_.row(step, first);
      if (end_ - in_place >= padded_) return in_place;
    }
    read(signal_, step, first, neurons_, copy_);
    return copy_;
  }

 private:
  const Signal& signal_;
  std::int64_t neurons_, padded_;
  float* copy_;
  const float* end_ = nullptr;
};

// The neurons whose output is not zero.
void list_events(Sample& sample, float* values, bool ones) {
  sample.count = append_nonzero(sample.output, sample.neurons, 0, sample.events) - sample.events;
  for (std::int64_t n = 0; !ones && n < sample.count; ++n) values[n] = sample.output[sample.events[n]];
  sample.values = ones ? nullptr : values;
}

// The coefficients of the neurons from `first`, one row each.
void expand(const RecurrentParams& params, std::int64_t first, const Sample& sample, float* to,
            CoefficientRows& rows) {
  for (int name = 0; name < kCoefficients; ++name, to += sample.padded) {
    const Coefficient& c = params.coefficients[name];
    rows.values[name] = to;
    std::fill_n(to, sample.padded, 1.0f);
    if (c.values == nullptr) continue;
    if (c.count == 1) {
      std::fill_n(to, sample.neurons, c.values[0]);
      continue;
    }
    for (std::int64_t k = 0; k < sample.neurons; ++k) to[k] = c.values[(first + k) / c.inner % c.count];
  }
}

}  // namespace

void recurrent_neuron(const RecurrentParams& params, std::int64_t first, std::int64_t last) {
  const KeepSubnormals guard;
  const std::int64_t padded = padded_features(params.neurons);
  constexpr int kRows = 7;
  AlignedFloats memory((kRows + kCoefficients + params.branch_count) * ((padded + 15) / 16 * 16));
  memory.clear();
  const std::unique_ptr<std::int32_t[]> events(new std::int32_t[params.neurons + kListSlack]);
  float* at = memory.data();
  const auto row = [&at, padded] { return std::exchange(at, at + (padded + 15) / 16 * 16); };
  Sample sample{};
  sample.kind = params.kind;
  sample.neurons = params.neurons;
  sample.padded = padded;
  sample.events = events.get();
  sample.branch_count = params.branch_count;
  sample.place = params.place;
  std::vector<Branch> branches;
  for (int branch = 0; branch < params.branch_count; ++branch)
    branches.emplace_back(params.branches[branch], params, padded, row());
  float *bias = row(), *values = row();
  sample.recurrent = row(), sample.sum = row(), sample.v = row(), sample.i = row(), sample.output = row();
  const UpdateStep update = update_of(params.kind);
  const bool binary = params.kind.fires == Fires::kAbove || params.kind.fires == Fires::kReaching;
  bool alike = params.matrices == 1;  // all samples have the same matrix and coefficients
  for (const Coefficient& c : params.coefficients)
    alike &= c.count == 1 || params.neurons % (c.inner * c.count) == 0;
  for (std::int64_t s = first; s < last; ++s) {
    const std::int64_t matrix = s % params.matrices, from = s * params.neurons;
    if (s == first || !alike) {
      sample.weight = params.prepacked + matrix * params.neurons * padded;
      if (params.bias) std::copy_n(params.bias + matrix * params.neurons, params.neurons, bias);
      sample.bias = params.bias ? bias : nullptr;
      expand(params, from, sample, at, sample.rows);
    }
    read(params.v, 0, from, params.neurons, sample.v);
    if (params.i.data) read(params.i, 0, from, params.neurons, sample.i);
    read(params.previous, 0, from, params.neurons, sample.output);
    list_events(sample, values, false);
    for (std::int64_t step = 0; step < params.steps; ++step) {
      for (int branch = 0; branch < params.branch_count; ++branch)
        sample.branches[branch] = branches[branch].row(step, from);
      run_best<Recur>(sample, padded);
      update(sample, padded);
      list_events(sample, values, binary);
      write(params.output, step, from, params.neurons, sample.output);
      write(params.trace_v, step, from, params.neurons, sample.v);
      write(params.trace_i, step, from, params.neurons, sample.i);
      write(params.trace_recurrent, step, from, params.neurons, sample.recurrent);
    }
    write(params.v, 0, from, params.neurons, sample.v);
    write(params.i, 0, from, params.neurons, sample.i);
    write(params.previous, 0, from, params.neurons, sample.output);
  }
}

}  // namespace neurocuda::cpu
