#include "cpu/coefficients.h"

#include <algorithm>
#include <numeric>

namespace neurocuda::cpu {
namespace {

constexpr std::int64_t kLong = 128;  // a channel or a row of coefficients worth a segment of its own

void expand(const Coefficient& coefficient, std::int64_t first, std::int64_t count, float* to) {
  std::int64_t place = (first / coefficient.inner) % coefficient.count;
  std::int64_t left = coefficient.inner - first % coefficient.inner;
  while (count > 0) {
    const std::int64_t run = std::min(left, count);
    std::fill_n(to, run, coefficient.values[place]);
    to += run;
    count -= run;
    left = coefficient.inner;
    if (++place == coefficient.count) place = 0;
  }
}

}  // namespace

TileCoefficients::TileCoefficients(const Coefficient* coefficients, std::int64_t tile, std::int64_t block,
                                   Cut cut)
    : coefficients_(coefficients), tile_(tile), block_(std::min(tile, block)) {
  if (cut == Cut::kRows) uniform_ = false;
  for (int name = 0; name < kCoefficients; ++name) {
    const Coefficient& c = coefficients[name];
    if (c.values != nullptr && c.count > 1 && (c.inner < kLong || cut == Cut::kBytes)) uniform_ = false;
  }
  if (uniform_) return;
  std::int64_t unit = cut == Cut::kBytes ? 8 : 1;  // a multiple of every short period
  for (int name = 0; name < kCoefficients; ++name) {
    const Coefficient& c = coefficients[name];
    if (c.values != nullptr && c.inner * c.count <= kBlock) unit = std::lcm(unit, c.inner * c.count);
  }
  const bool repeats = unit <= kBlock;
  block_ = repeats ? kBlock / unit * unit : kBlock;
  for (int name = 0; name < kCoefficients; ++name) {
    const Coefficient& c = coefficients[name];
    Source& source = sources_[name];
    if (c.values == nullptr) {
      source = Source::kNone;
    } else if (c.count == 1 || (repeats && c.inner * c.count <= kBlock)) {
      source = Source::kRepeated;
    } else if (c.inner == 1 && c.count >= kLong && unit == 1) {
      source = Source::kDirect;
    } else {
      source = Source::kExpanded;
    }
  }
  repeated_.resize(kCoefficients * block_);
}

const std::vector<Segment>& TileCoefficients::cut(std::int64_t first, std::int64_t count) {
  segments_.clear();
  if (uniform_) {
    cut_uniform(first, count);
  } else {
    cut_rows(first, count);
  }
  return segments_;
}

void TileCoefficients::cut_uniform(std::int64_t first, std::int64_t count) {
  for (std::int64_t at = 0; at < count;) {
    Segment segment{at, std::min(block_, count - at), true, {}};
    for (int name = 0; name < kCoefficients; ++name) {
      const Coefficient& c = coefficients_[name];
      segment.rows.values[name] = c.values;
      if (c.values == nullptr || c.count == 1) continue;
      const std::int64_t channel = (first + at) / c.inner;
      segment.rows.values[name] = c.values + channel % c.count;
      segment.count = std::min(segment.count, (channel + 1) * c.inner - (first + at));
    }
    segments_.push_back(segment);
    at += segment.count;
  }
}

void TileCoefficients::cut_rows(std::int64_t first, std::int64_t count) {
  const float* rows[kCoefficients] = {};
  for (int name = 0; name < kCoefficients; ++name) {
    const Coefficient& c = coefficients_[name];
    if (sources_[name] == Source::kRepeated) {
      expand(c, first, std::min(count, block_), repeated_.data() + name * block_);
      rows[name] = repeated_.data() + name * block_;
    } else if (sources_[name] == Source::kExpanded) {
      expanded_.resize(kCoefficients * tile_);
      expand(c, first, count, expanded_.data() + name * tile_);
      rows[name] = expanded_.data() + name * tile_;
    }
  }
  for (std::int64_t at = 0; at < count;) {
    Segment segment{at, std::min(block_, count - at), false, {}};
    for (int name = 0; name < kCoefficients; ++name) {
      const Coefficient& c = coefficients_[name];
      if (sources_[name] == Source::kDirect) {
        const std::int64_t place = (first + at) % c.count;
        segment.rows.values[name] = c.values + place;
        segment.count = std::min(segment.count, c.count - place);
      } else {
        segment.rows.values[name] =
            rows[name] == nullptr ? nullptr : rows[name] + (sources_[name] == Source::kExpanded ? at : 0);
      }
    }
    segments_.push_back(segment);
    at += segment.count;
  }
}

}  // namespace neurocuda::cpu
