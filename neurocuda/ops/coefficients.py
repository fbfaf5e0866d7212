"""The float32 coefficients of one neuron update per time step. Nothing below this module knows dt or tau."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

SpikeWhen = Literal["above", "reaching"]
Reset = Literal["to-value", "subtract", "feedback"]
Synapse = Literal["updated", "previous"]
SpikesPerStep = Literal["one", "many"]
ResetDelay = Literal[0, 1]


@dataclass(frozen=True)
class NeuronCoefficients:
    """Coefficients of the update of one population over one time step:

        i = i * decay_i + x * gain_i                  neurons with a synapse; otherwise i = x
        u = v * decay_v + (i * gain_v + bias_v)
        s = u > threshold                             or >=; many: max(0, floor(u / threshold))
        v = s ? v_reset : u                           or u - s * threshold
        v = v < v_min ? v_min : v                     neurons with a lower bound

    With `reset_delay` 1 a spike resets the membrane potential in the next step, and v keeps the potential before it:

        s0 = spikes of v                              of the step before, by the same rule as s
        v0 = s0 ? v_reset : v                         "to-value": before the decay
        u = v0 * decay_v + (i * gain_v + bias_v)
        u = u - s0 * threshold                        "subtract": after the decay
        s = spikes of u
        v = u < v_min ? v_min : u

    float32, each operation rounded separately. `Discretization` sets the coefficients from dt and the NIR parameters:
    forward Euler, or exact integration for an input that is constant over the step. NIR equations: Pedersen et al.
    2024, Table 1.

    Args:
        decay_v: Factor of the membrane potential. A float32 tensor that broadcasts to [B, *shape], as are all others.
        gain_v: Factor of the synaptic current (without a synapse: of the input).
        bias_v: Constant term of the membrane potential.
        decay_i: Factor of the synaptic current; None (default) for neurons without a synapse.
        gain_i: Factor of the input in the synaptic current; None (default) without a synapse.
        threshold: Firing threshold; None (default) for neurons that emit their membrane potential.
        v_reset: Membrane potential after a spike; None (default) without a threshold, and with reset "feedback".
        v_min: Lower bound of the membrane potential, applied after the reset; None (default) for no bound. Needs a
            threshold.
        spike_when: "above" (default): s = u > threshold. "reaching": s = u >= threshold.
        reset: "to-value" (default): v = v_reset. "subtract": v = u - s * threshold. "feedback": v = u, and the spikes
            become the `i` of the next step, which enters with the weight `decay_i`.
        synapse: "updated" (default): u uses the new i. "previous": u uses the i of the step before.
        spikes_per_step: "one" (default), or "many" for a spike count.
        reset_delay: Steps from a spike to its reset, 0 (default) or 1. 1 needs a threshold and one spike per step.

    Example:
        >>> import torch
        >>> from neurocuda import NeuronCoefficients
        >>> decay, gain, zero = torch.tensor(0.9), torch.tensor(0.1), torch.tensor(0.0)
        >>> NeuronCoefficients(decay, gain, zero, threshold=torch.tensor(1.0), v_reset=zero).spiking
        True
    """

    decay_v: Tensor
    gain_v: Tensor
    bias_v: Tensor
    decay_i: Tensor | None = None
    gain_i: Tensor | None = None
    threshold: Tensor | None = None
    v_reset: Tensor | None = None
    v_min: Tensor | None = None
    spike_when: SpikeWhen = "above"
    reset: Reset = "to-value"
    synapse: Synapse = "updated"
    spikes_per_step: SpikesPerStep = "one"
    reset_delay: ResetDelay = 0

    @property
    def spiking(self) -> bool:
        """Whether the neurons emit spikes; otherwise they emit their membrane potential."""
        return self.threshold is not None


class NeuronState(NamedTuple):
    """Membrane potential v and synaptic current i after a step, float32 [B, *shape]; i is None without a synapse."""

    v: Tensor
    i: Tensor | None = None


def schema_arguments(c: NeuronCoefficients, state: NeuronState) -> tuple[Tensor | bool | None, ...]:
    """State, coefficients and flags in the order of the operators' schemas; by position, as names cost microseconds."""
    return (
        state.v,
        state.i if c.decay_i is not None else None,
        c.decay_v,
        c.gain_v,
        c.bias_v,
        c.decay_i,
        c.gain_i,
        c.threshold,
        c.v_reset,
        c.v_min,
        c.spike_when == "reaching",
        c.reset == "subtract",
        c.synapse == "previous",
        c.spikes_per_step == "many",
        c.reset_delay == 1,
    )
