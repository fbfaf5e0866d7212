// Dispatch from a NeuronKind at run time to the template for it.
#pragma once

#include "neuron_update.h"

namespace neurocuda::cuda {

template <Synapse synapse_, Fires fires_, Reset reset_>
struct KindOf {
  static constexpr Synapse synapse = synapse_;
  static constexpr Fires fires = fires_;
  static constexpr Reset reset = reset_;
};

template <Synapse synapse, Fires fires, class Run>
void with_kind_of(Reset reset, const Run& run) {
  if (fires == Fires::kNever || reset == Reset::kToValue) {
    return run(KindOf<synapse, fires, Reset::kToValue>());
  }
  if constexpr (may_feed_back<synapse, fires>) {
    if (reset == Reset::kFeedback) return run(KindOf<synapse, fires, Reset::kFeedback>());
  }
  if constexpr (fires != Fires::kNever) {
    run(KindOf<synapse, fires, Reset::kSubtract>());
  }
}

template <Synapse synapse, class Run>
void with_kind_of(const NeuronKind& kind, const Run& run) {
  switch (kind.fires) {
    case Fires::kNever:
      return with_kind_of<synapse, Fires::kNever>(kind.reset, run);
    case Fires::kAbove:
      return with_kind_of<synapse, Fires::kAbove>(kind.reset, run);
    case Fires::kReaching:
      return with_kind_of<synapse, Fires::kReaching>(kind.reset, run);
    case Fires::kMany:
      return with_kind_of<synapse, Fires::kMany>(kind.reset, run);
  }
}

// Calls run(KindOf<...>()). There are 3 * 7 types, as a neuron that never fires has no reset, and two more
// with Reset::kFeedback.
template <class Run>
void with_kind(const NeuronKind& kind, const Run& run) {
  switch (kind.synapse) {
    case Synapse::kNone:
      return with_kind_of<Synapse::kNone>(kind, run);
    case Synapse::kUpdated:
      return with_kind_of<Synapse::kUpdated>(kind, run);
    case Synapse::kPrevious:
      return with_kind_of<Synapse::kPrevious>(kind, run);
  }
}

}  // namespace neurocuda::cuda
