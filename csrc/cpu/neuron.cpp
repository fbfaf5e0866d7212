#include "cpu/neuron.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/checks.h"
#include "cpu/coefficients.h"
#include "cpu/denormals.h"
#include "cpu/multiversion.h"
#include "cpu/signal.h"
#include "cpu/stream.h"

namespace neurocuda::cpu {
namespace {

// Values of state and coefficients that stay in the second-level cache while time goes by.
constexpr std::int64_t kKept = 131072;

constexpr std::int64_t kCaches = std::int64_t{1} << 24;  // bytes

struct Row {
  const float* x;
  float* v;
  float* i;
  void* output;
  std::int64_t count;
};

template <class Output, Synapse synapse, Fires fires, Reset reset, bool uniform>
NEUROCUDA_INLINE std::uint32_t update(const Row& row, const CoefficientRows& rows) {
  const float* x = row.x;
  float* v = row.v;
  float* i = row.i;
  Output* output = static_cast<Output*>(row.output);
  const std::int64_t count = row.count;
  const CoefficientRows own = rows;
  const NeuronCoefficients shared = coefficients_at<synapse, fires, reset>(own, 0);
  std::uint32_t largest = 0;
#pragma GCC ivdep  // the output may be x itself; it overlaps no other input
  for (std::int64_t k = 0; k < count; ++k) {
    NeuronState state{v[k], synapse == Synapse::kNone ? 0.0f : i[k]};
    float u;
    const NeuronCoefficients c = uniform ? shared : coefficients_at<synapse, fires, reset>(own, k);
    largest = std::max(largest, exponent_of(x[k]));
    output[k] = static_cast<Output>(update_neuron<synapse, fires, reset>(x[k], c, state, u));
    v[k] = state.v;
    if (synapse != Synapse::kNone) i[k] = state.i;
  }
  return largest;
}

template <class Output, Synapse synapse, Fires fires, Reset reset>
NEUROCUDA_INLINE std::uint32_t update(const Row& row, const Segment& segment) {
  return segment.uniform ? update<Output, synapse, fires, reset, true>(row, segment.rows)
                         : update<Output, synapse, fires, reset, false>(row, segment.rows);
}

template <class Output, Synapse synapse, Fires fires>
NEUROCUDA_INLINE std::uint32_t update(const NeuronKind& kind, const Row& row, const Segment& segment) {
  if (fires == Fires::kNever || kind.reset == Reset::kToValue) {
    return update<Output, synapse, fires, Reset::kToValue>(row, segment);
  }
  if constexpr (may_feed_back<synapse, fires>) {
    if (kind.reset == Reset::kFeedback) return update<Output, synapse, fires, Reset::kFeedback>(row, segment);
  }
  return update<Output, synapse, fires, Reset::kSubtract>(row, segment);
}

template <class Output, Synapse synapse>
NEUROCUDA_INLINE std::uint32_t update(const NeuronKind& kind, const Row& row, const Segment& segment) {
  if (kind.fires == Fires::kAbove) return update<Output, synapse, Fires::kAbove>(kind, row, segment);
  if (kind.fires == Fires::kReaching) return update<Output, synapse, Fires::kReaching>(kind, row, segment);
  if constexpr (std::is_same_v<Output, float>) {
    if (kind.fires == Fires::kMany) return update<Output, synapse, Fires::kMany>(kind, row, segment);
    return update<Output, synapse, Fires::kNever>(kind, row, segment);
  }
  return 0;
}

template <class Output>
NEUROCUDA_INLINE std::uint32_t update(const NeuronKind& kind, const Row& row, const Segment& segment) {
  switch (kind.synapse) {
    case Synapse::kNone:
      return update<Output, Synapse::kNone>(kind, row, segment);
    case Synapse::kUpdated:
      return update<Output, Synapse::kUpdated>(kind, row, segment);
    case Synapse::kPrevious:
      return update<Output, Synapse::kPrevious>(kind, row, segment);
  }
  return 0;
}

// With a late reset or a lower bound: at most kBlock neurons, of any kind.
template <class Output, bool uniform>
NEUROCUDA_INLINE std::uint32_t update_general(const NeuronKind& of, const Row& row,
                                              const CoefficientRows& rows) {
  const GeneralKind kind(of);
  const float* x = row.x;
  float* v = row.v;
  alignas(64) float none[kBlock];
  if (row.i == nullptr) std::fill_n(none, row.count, 0.0f);
  float* i = row.i == nullptr ? none : row.i;
  Output* output = static_cast<Output*>(row.output);
  const std::int64_t count = row.count;
  const CoefficientRows own = every_row(rows);
  const NeuronCoefficients shared = every_coefficient_at(own, 0);
  std::uint32_t largest = 0;
#pragma GCC ivdep
  for (std::int64_t k = 0; k < count; ++k) {
    NeuronState state{v[k], i[k]};
    float u;
    largest = std::max(largest, exponent_of(x[k]));
    output[k] = static_cast<Output>(
        neurocuda::update_general(kind, x[k], uniform ? shared : every_coefficient_at(own, k), state, u));
    v[k] = state.v;
    i[k] = state.i;
  }
  return largest;
}

template <class Output>
struct GeneralRow {
  NEUROCUDA_INLINE static std::uint32_t run(const NeuronKind* kind, const Row* row, const Segment* segment) {
    return segment->uniform ? update_general<Output, true>(*kind, *row, segment->rows)
                            : update_general<Output, false>(*kind, *row, segment->rows);
  }
};

template <class Output>
struct UpdateRow {
  NEUROCUDA_INLINE static std::uint32_t run(const NeuronKind* kind, const Row* row, const Segment* segment) {
    return update<Output>(*kind, *row, *segment);
  }
};

// One step of the neurons of a segment. Output: float, or bytes that are 0 or 1. Returns the largest exponent
// of x.
template <class Output>
std::uint32_t update_row(const NeuronKind& kind, const Row& row, const Segment& segment) {
  if (kind.general()) return run_version<GeneralRow<Output>>(&kind, &row, &segment);
  return run_version<UpdateRow<Output>>(&kind, &row, &segment);
}

// The state of a tile: in place, or a copy.
class TileState {
 public:
  TileState(const Signal& signal, std::int64_t tile) : signal_(signal) {
    if (signal.data != nullptr && !signal.direct()) copy_.resize(tile);
  }
  float* open(std::int64_t first, std::int64_t count) {
    if (signal_.data == nullptr) return nullptr;
    if (copy_.empty()) return signal_.row(0, first);
    for (std::int64_t at = 0; at < count; at += kBlock) {
      read_row(signal_, 0, first + at, std::min(kBlock, count - at), copy_.data() + at);
    }
    return copy_.data();
  }
  void close(std::int64_t first, std::int64_t count) {
    if (signal_.data == nullptr || copy_.empty()) return;
    for (std::int64_t at = 0; at < count; at += kBlock) {
      write_row(signal_, 0, first + at, std::min(kBlock, count - at), copy_.data() + at);
    }
  }

 private:
  const Signal& signal_;
  std::vector<float> copy_;
};

void emit(const NeuronParams& params, bool streamed, std::int64_t step, std::int64_t first,
          std::int64_t count, const float* from) {
  if (params.packed) {
    char* row = params.output.data + step * params.output.time_stride + first / 8;
    write_bits(from, count, reinterpret_cast<std::uint8_t*>(row));
  } else if (streamed) {
    stream_floats(from, count, params.output.row(step, first));
  } else {
    write_row(params.output, step, first, count, from);
  }
}

// Neurons that are run over all steps before the next ones.
std::int64_t neurons_of_tile(const NeuronParams& params) {
  std::int64_t rows = params.i.data == nullptr ? 1 : 2;
  for (const Coefficient& c : params.coefficients) rows += c.values != nullptr && c.count > 1 ? 1 : 0;
  return kKept / rows;
}

// Whether the output goes past the caches: it does not fit them, and would push out what is read.
bool past_caches(const NeuronParams& params) {
  if (params.packed || !params.output.direct() || params.output.time_stride == 0) return false;
  if (params.steps * params.output.time_stride < kCaches) return false;
  for (int branch = 0; branch < params.branch_count; ++branch) {
    if (params.branches[branch].data == params.output.data) return false;  // in place, it is in the caches
  }
  return true;
}

}  // namespace

void neuron(const NeuronParams& params, std::int64_t first, std::int64_t last, std::atomic<bool>* finite) {
  const KeepSubnormals guard;
  const bool direct_in = params.branch_count == 1 && params.branches[0].direct();
  const bool streamed = past_caches(params);
  const bool one_spike = params.kind.fires == Fires::kAbove || params.kind.fires == Fires::kReaching;
  const bool bytes_out =
      one_spike && params.output.dense && size_of(params.output.type) == 1 && !params.packed;
  const bool direct_out = bytes_out || (params.output.direct() && !params.packed && !streamed);
  const bool traced = params.trace_v.data != nullptr || params.trace_i.data != nullptr;
  const std::int64_t most = neurons_of_tile(params);
  const bool long_rows = direct_in && direct_out && !traced && !params.kind.general();
  const std::int64_t block = long_rows ? most : kBlock;
  const std::int64_t tiles = (last - first + most - 1) / most;
  const std::int64_t even = (last - first + tiles * kNeuronGrain - 1) / (tiles * kNeuronGrain) * kNeuronGrain;
  const std::int64_t tile = std::min(even, last - first);

  using Cut = TileCoefficients::Cut;
  TileCoefficients coefficients(params.coefficients, tile, block,
                                params.packed ? Cut::kBytes : Cut::kAnywhere);
  TileState state_v(params.v, tile), state_i(params.i, tile);
  alignas(64) float sum[kBlock];
  alignas(64) float emitted[kBlock];
  for (std::int64_t start = first; start < last; start += tile) {
    const std::int64_t count = std::min(tile, last - start);
    const std::vector<Segment>& segments = coefficients.cut(start, count);
    float* v = state_v.open(start, count);
    float* i = state_i.open(start, count);
    for (std::int64_t step = 0; step < params.steps; ++step) {
      for (const Segment& segment : segments) {
        const std::int64_t at = start + segment.first;
        Row row{sum, v + segment.first, i == nullptr ? nullptr : i + segment.first, emitted, segment.count};
        if (segment.count <= kBlock && step + 1 < params.steps) {
          for (int branch = 0; branch < params.branch_count; ++branch) {
            prefetch_row(params.branches[branch], step + 1, at, segment.count);
          }
        }
        if (direct_in) {
          row.x = params.branches[0].row(step, at);
        } else {
          sum_rows(params.branches, params.branch_count, step, at, segment.count, sum);
        }
        if (direct_out) {
          row.output =
              params.output.data + step * params.output.time_stride + at * size_of(params.output.type);
        }
        const std::uint32_t largest = bytes_out ? update_row<std::uint8_t>(params.kind, row, segment)
                                                : update_row<float>(params.kind, row, segment);
        if (finite != nullptr && direct_in && largest == kNotFinite) *finite = false;
        if (!direct_out) emit(params, streamed, step, at, segment.count, emitted);
        if (params.trace_v.data != nullptr) write_row(params.trace_v, step, at, segment.count, row.v);
        if (params.trace_i.data != nullptr) write_row(params.trace_i, step, at, segment.count, row.i);
      }
    }
    state_v.close(start, count);
    state_i.close(start, count);
  }
  if (streamed) end_stream();
}

}  // namespace neurocuda::cpu
