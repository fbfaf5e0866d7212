// From the kind of a neuron, known at run time, to the template that was compiled for it.
#pragma once

#include "neuron_update.h"

namespace neurocuda::cuda {

template <Synapse synapse_, Fires fires_, Reset reset_>
struct KindOf {
  static constexpr Synapse synapse = synapse_;
  static constexpr Fires fires = fires_;
  static constexpr Reset reset = reset_;
};

template <Synapse synapse, Fires fires, class Call>
void with_kind_of(Reset reset, const Call& call) {
  if (fires == Fires::kNever || reset == Reset::kToValue) {
    return call(KindOf<synapse, fires, Reset::kToValue>());
  }
  if constexpr (may_feed_back<synapse, fires>) {
    if (reset == Reset::kFeedback) return call(KindOf<synapse, fires, Reset::kFeedback>());
  }
  if constexpr (fires != Fires::kNever) {
    call(KindOf<synapse, fires, Reset::kSubtract>());
  }
}

template <Synapse synapse, class Call>
void with_kind_of(const NeuronKind& kind, const Call& call) {
  switch (kind.fires) {
    case Fires::kNever:
      return with_kind_of<synapse, Fires::kNever>(kind.reset, call);
    case Fires::kAbove:
      return with_kind_of<synapse, Fires::kAbove>(kind.reset, call);
    case Fires::kReaching:
      return with_kind_of<synapse, Fires::kReaching>(kind.reset, call);
    case Fires::kMany:
      return with_kind_of<synapse, Fires::kMany>(kind.reset, call);
  }
}

// Calls call(KindOf<...>()): of 3 * 7, as the reset of a neuron that never fires is of no account, and the
// two whose spikes come back.
template <class Call>
void with_kind(const NeuronKind& kind, const Call& call) {
  switch (kind.synapse) {
    case Synapse::kNone:
      return with_kind_of<Synapse::kNone>(kind, call);
    case Synapse::kUpdated:
      return with_kind_of<Synapse::kUpdated>(kind, call);
    case Synapse::kPrevious:
      return with_kind_of<Synapse::kPrevious>(kind, call);
  }
}

}  // namespace neurocuda::cuda
