"""What a kernel knows of a neuron: float32 coefficients of one update per step. Nothing here knows of dt or tau."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

SpikeWhen = Literal["above", "reaching"]
Reset = Literal["to-value", "subtract", "feedback"]
Synapse = Literal["updated", "previous"]
SpikesPerStep = Literal["one", "many"]


@dataclass(frozen=True)
class NeuronCoefficients:
    """The update of one population for one step. Tensors are float32 and broadcast against [B, *shape].

    `decay_i` and `gain_i` are None for neurons without a synaptic current; `threshold` and `v_reset` are None
    for those that emit their membrane potential instead of spikes. With `reset` "feedback" nothing is reset (v_reset is
    None): the spikes are the `i` of the next step and come back as current, with weight `decay_i`, once per neuron.
    """

    decay_v: Tensor
    gain_v: Tensor
    bias_v: Tensor
    decay_i: Tensor | None = None
    gain_i: Tensor | None = None
    threshold: Tensor | None = None
    v_reset: Tensor | None = None
    spike_when: SpikeWhen = "above"
    reset: Reset = "to-value"
    synapse: Synapse = "updated"
    spikes_per_step: SpikesPerStep = "one"

    @property
    def spiking(self) -> bool:
        return self.threshold is not None


class NeuronState(NamedTuple):
    """What a population carries from step to step: float32 [B, *shape]; `i` only where there is a synapse."""

    v: Tensor
    i: Tensor | None = None
