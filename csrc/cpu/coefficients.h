// The coefficients of a tile of neurons, as rows that the loops read side by side.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/signal.h"
#include "neuron_update.h"
#include "params/coefficients.h"

namespace neurocuda::cpu {

// The coefficients of some neighbouring neurons: of the k-th neuron values[name][k], or, where they are
// uniform, values[name][0] for all.
struct CoefficientRows {
  const float* values[kCoefficients];
};

// Neighbouring neurons of a tile that one call of the inner loop updates.
struct Segment {
  std::int64_t first;  // from the first neuron of the tile
  std::int64_t count;
  bool uniform;
  CoefficientRows rows;
};

// How a tile is cut into segments, and the memory that holds repeated and expanded coefficients.
class TileCoefficients {
 public:
  enum class Cut {
    kAnywhere,
    kBytes,  // each segment but the last holds a multiple of eight neurons
    kRows,   // no segment is uniform
  };

  // For tiles of at most `tile` neurons. Segments have at most `block` neurons, and at most kBlock where they
  // are not uniform.
  TileCoefficients(const Coefficient* coefficients, std::int64_t tile, std::int64_t block, Cut cut);

  // The segments of neurons first .. first + count - 1.
  const std::vector<Segment>& cut(std::int64_t first, std::int64_t count);

 private:
  // Where the row of a coefficient comes from.
  enum class Source {
    kNone,
    kRepeated,  // a copy that serves every segment: a scalar, or several full short periods
    kDirect,    // its own memory, cut where the period ends
    kExpanded,  // a copy for the tile
  };

  void cut_uniform(std::int64_t first, std::int64_t count);
  void cut_rows(std::int64_t first, std::int64_t count);

  const Coefficient* coefficients_;
  std::int64_t tile_, block_;
  bool uniform_ = true;
  Source sources_[kCoefficients];
  std::vector<float> repeated_, expanded_;
  std::vector<Segment> segments_;
};

template <Synapse synapse, Fires fires, Reset reset>
NEUROCUDA_HOST_DEVICE NeuronCoefficients coefficients_at(const CoefficientRows& rows, std::int64_t k) {
  NeuronCoefficients c{};
  c.decay_v = rows.values[kDecayV][k];
  c.gain_v = rows.values[kGainV][k];
  c.bias_v = rows.values[kBiasV][k];
  if (synapse != Synapse::kNone) c.decay_i = rows.values[kDecayI][k];
  if (synapse != Synapse::kNone) c.gain_i = rows.values[kGainI][k];
  if (fires != Fires::kNever) c.threshold = rows.values[kThreshold][k];
  if (fires != Fires::kNever && reset == Reset::kToValue) c.v_reset = rows.values[kVReset][k];
  return c;
}

// Rows of all coefficients, for update_general: zeros where the neurons have no such coefficient. Segments of
// at most kBlock neurons.
inline CoefficientRows every_row(const CoefficientRows& rows) {
  static constexpr float kZeros[kBlock] = {};
  CoefficientRows every;
  for (int name = 0; name < kCoefficients; ++name)
    every.values[name] = rows.values[name] == nullptr ? kZeros : rows.values[name];
  return every;
}

// From every_row.
NEUROCUDA_HOST_DEVICE NeuronCoefficients every_coefficient_at(const CoefficientRows& rows, std::int64_t k) {
  return {rows.values[kDecayV][k], rows.values[kGainV][k], rows.values[kBiasV][k],
          rows.values[kDecayI][k], rows.values[kGainI][k], rows.values[kThreshold][k],
          rows.values[kVReset][k], rows.values[kVMin][k]};
}

}  // namespace neurocuda::cpu
