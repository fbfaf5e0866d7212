"""What one time step means: `Discretization`, and a preset for each simulator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from neurocuda.errors import ArgumentError
from neurocuda.ops.coefficients import Reset, ResetDelay, SpikesPerStep, SpikeWhen, Synapse


@dataclass(frozen=True)
class Discretization:
    """How the continuous-time neurons of NIR are discretized in time.

    The equations are those of the NIR paper (Pedersen et al., Nature Communications 15, 2024) and of docs/semantics.md.

    Args:
        dt: Length of a time step in seconds.
        integrator: "euler" (forward Euler), or "exponential" (exact for a constant input).
        spike_when: A neuron fires "above" its threshold (NIR), or on "reaching" it.
        reset: "to-value": to v_reset (NIR); "subtract": the threshold is subtracted.
        synapse: The membrane reads the synaptic current "updated" in this step, or that of the "previous" step.
        spikes_per_step: At most "one", or "many": floor(u / threshold).
        if_gain: What one unit of input adds to IF and I: "r*dt" (NIR: v' = R I), or "r".
        feedback: The edges of a cycle that are delayed by one step: those that leave spiking neurons
            ("neuron-output"), or those that enter neurons ("weight-output").
        output_delay: 1 if spikes leave one step late, else 0.
        reset_delay: 0: a spike resets the membrane potential in its own step. 1: in the next step, subtracting after
            the decay or setting v_reset before it; v is then the potential before the reset.
        clamp: Lower bound of the membrane potential of IF, LIF and CubaLIF after the reset: "none", "zero", or
            "-threshold".

    Raises:
        ArgumentError: A field has no such value, or "many" comes without "reaching" and "subtract" or with
            reset_delay 1.

    Example:
        >>> import neurocuda
        >>> neurocuda.Discretization(dt=1e-3, reset="subtract").reset
        'subtract'
        >>> neurocuda.Discretization.norse().spike_when
        'above'
    """

    dt: float = 1e-4
    integrator: Literal["euler", "exponential"] = "euler"
    spike_when: SpikeWhen = "above"
    reset: Reset = "to-value"
    synapse: Synapse = "updated"
    spikes_per_step: SpikesPerStep = "one"
    if_gain: Literal["r*dt", "r"] = "r*dt"
    feedback: Literal["neuron-output", "weight-output"] = "neuron-output"
    output_delay: Literal[0, 1] = 0
    reset_delay: ResetDelay = 0
    clamp: Literal["none", "zero", "-threshold"] = "none"

    def __post_init__(self) -> None:
        number = isinstance(self.dt, int | float) and not isinstance(self.dt, bool)
        if not (number and math.isfinite(self.dt) and self.dt > 0):
            raise ArgumentError(f"discretization, field 'dt': expected seconds > 0, found {self.dt!r}")
        for name, hint in get_type_hints(Discretization).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                choices = ", ".join(map(repr, get_args(hint)))
                raise ArgumentError(
                    f"discretization, field {name!r}: expected one of {choices}, found {getattr(self, name)!r}"
                )
        if self.spikes_per_step == "many" and (self.spike_when, self.reset) != ("reaching", "subtract"):
            raise ArgumentError(
                "discretization, field 'spikes_per_step': expected spike_when='reaching' and reset='subtract' "
                f"with 'many', found {self.spike_when!r} and {self.reset!r}"
            )
        if self.spikes_per_step == "many" and self.reset_delay == 1:
            raise ArgumentError("discretization, field 'reset_delay': expected 0 with spikes_per_step='many', found 1")

    @classmethod
    def preset(cls, simulator: str, **changes: Any) -> Discretization:
        """The discretization of a simulator.

        Args:
            simulator: A name of `PRESETS`: "norse", "snntorch", "sinabs", "spikingjelly", "rockpool", "spyx", "lava",
                "nengo".
            **changes: Fields that replace those of the preset.

        Returns:
            The preset with these changes.

        Raises:
            ArgumentError: No preset has this name, or `Discretization` has no such field.
        """
        if simulator not in PRESETS:
            raise ArgumentError(f"preset: expected one of {', '.join(PRESETS)}, found {simulator!r}")
        unknown = sorted(set(changes) - {field.name for field in fields(cls)})
        if unknown:
            raise ArgumentError(f"preset: expected fields of Discretization, found {', '.join(unknown)}")
        return replace(PRESETS[simulator], **changes)

    @classmethod
    def norse(cls, **changes: Any) -> Discretization:
        """As Norse 1.1.0 runs an imported graph: IF, LIF and CubaLIF, also recurrent, spike for spike.

        Norse ignores r of IF and LIF, and v_reset; its CubaLIF adds v_leak to the synapse too.
        """
        return cls.preset("norse", **changes)

    @classmethod
    def snntorch(cls, **changes: Any) -> Discretization:
        """As snnTorch 1.0.0 runs an imported graph: LIF and CubaLIF spike for spike.

        It turns IF into a leaky neuron (beta = 0.9) whatever the file says, which no field expresses.
        """
        return cls.preset("snntorch", **changes)

    @classmethod
    def sinabs(cls, **changes: Any) -> Discretization:
        """As sinabs 3.1.3 counts steps: IF spike for spike while v stays above -threshold, where sinabs clamps it.

        LIF as its own layer does by default; its importer gives LIF a gain of 1, which no field expresses.
        """
        return cls.preset("sinabs", **changes)

    @classmethod
    def spikingjelly(cls, **changes: Any) -> Discretization:
        """As SpikingJelly 2.0.0 runs an imported graph: IF, LIF and CubaLIF, also recurrent, spike for spike."""
        return cls.preset("spikingjelly", **changes)

    @classmethod
    def rockpool(cls, **changes: Any) -> Discretization:
        """The rules of Rockpool 3.1.0: exponential decay, many spikes, reset by subtraction.

        Not spike for spike: its gain per input spike is 1 (CubaLIF: exp(-dt/tau_syn)), whatever r and tau are.
        """
        return cls.preset("rockpool", **changes)

    @classmethod
    def spyx(cls, **changes: Any) -> Discretization:
        """As Spyx 1.0.0 counts steps: IF, and CubaLIF with r = tau_mem/dt and w_in = tau_syn/dt, spike for spike.

        Its LIF has a gain of 1 and subtracts the threshold one decay later, which no field expresses.
        """
        return cls.preset("spyx", **changes)

    @classmethod
    def lava(cls, **changes: Any) -> Discretization:
        """As Lava's floating-point LIF runs an imported graph, by its source and its published trace.

        Lava delays spikes on the way to the next neuron; fixed-point weights and decays are not modelled.
        """
        return cls.preset("lava", **changes)

    @classmethod
    def nengo(cls, **changes: Any) -> Discretization:
        """As Nengo 4.1.0 runs a graph imported by the NIR paper's code: IF, and LIF while v stays above 0.

        Nengo clamps v of LIF at 0, and steps a synapse by Euler next to an exact membrane (CubaLIF differs).
        """
        return cls.preset("nengo", **changes)


PRESETS: Mapping[str, Discretization] = {
    "norse": Discretization(dt=1e-3, if_gain="r", feedback="weight-output"),
    "snntorch": Discretization(if_gain="r"),
    "sinabs": Discretization(
        dt=1.0,
        integrator="exponential",
        spike_when="reaching",
        reset="subtract",
        spikes_per_step="many",
        if_gain="r",
        feedback="weight-output",
    ),
    "spikingjelly": Discretization(spike_when="reaching", feedback="weight-output"),
    "rockpool": Discretization(
        dt=1e-3,
        integrator="exponential",
        spike_when="reaching",
        reset="subtract",
        spikes_per_step="many",
        if_gain="r",
    ),
    "spyx": Discretization(dt=1.0, reset="subtract", if_gain="r", output_delay=1),
    "lava": Discretization(if_gain="r", output_delay=1),
    "nengo": Discretization(dt=1e-3, integrator="exponential", synapse="previous", if_gain="r"),
}
"""Each simulator's discretization, as data. The method on `Discretization` states its limits."""
