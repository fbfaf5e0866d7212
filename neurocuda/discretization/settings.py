"""What one time step means: `Discretization`, and a preset for each simulator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from neurocuda.discretization.by_class import (
    CLAMPS,
    GAINS,
    INITIAL_STATES,
    MEMBRANES,
    RESET_DELAYS,
    canonical,
    value_of,
)
from neurocuda.errors import ArgumentError
from neurocuda.ops.coefficients import Reset, ResetDelay, SpikesPerStep, SpikeWhen, Synapse


class _Current(str):
    """An `if_gain` that was read from a Discretization: `dataclasses.replace` passes it back, and changes nothing."""


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
        gain: The factor of the input in the membrane potential, with g = dt / tau or 1 - exp(-dt / tau), of IF and I
            g = dt: "r*g" (NIR), "g", "r" or "1", for all neurons or by class, such as "IF:r, LIF:g" or
            {"IF": "r", "LIF": "g"}. Classes: "IF" (I, IF), "LIF" (LI, LIF), "CubaLIF" (CubaLI, CubaLIF), and "synapse",
            the factor of the input in the synaptic current: "w_in*g" (NIR), "g", "w_in", "1" or "decay" (that of the
            current: the input enters before the decay).
        feedback: The edges of a cycle that are delayed by one step: those that leave spiking neurons
            ("neuron-output"), or those that enter neurons ("weight-output").
        output_delay: 1 if spikes leave one step late, else 0.
        reset_to: With reset="to-value": the "v_reset" of the neuron, or "zero".
        initial_state: The membrane potential before the first step: "zero", the "v_reset" that a reset sets, or
            "v_leak"; zero for neurons without such a parameter. By class of neuron as `gain`. `initial_v` in the
            metadata of a node takes precedence.
        reset_delay: 1 if a reset acts one step after its spike: a subtraction after the decay of that step, a value
            before it, so that the input of that step is kept (snnTorch). 0 (default): in the step of the spike. By
            class of neuron as `gain`: "LIF:1".
        clamp: A lower bound of the membrane potential of spiking neurons after the reset: "none", "zero" or
            "-threshold". By class of neuron as `gain`: "IF:-threshold" (sinabs).
        if_gain: The gain of the class "IF" alone, which `gain` also sets: "r*dt" is "r*g".

    Raises:
        ArgumentError: A field has no such value, "many" comes without "reaching" and "subtract", or a reset_delay of 1
            comes with "many" or with the synapse of the "previous" step.

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
    gain: str | Mapping[str, str] = "r*g"
    feedback: Literal["neuron-output", "weight-output"] = "neuron-output"
    output_delay: Literal[0, 1] = 0
    reset_to: Literal["v_reset", "zero"] = "v_reset"
    initial_state: str | Mapping[str, str] = "zero"
    reset_delay: int | str | Mapping[str, int] = 0
    clamp: str | Mapping[str, str] = "none"
    if_gain: InitVar[str | None] = None

    def __post_init__(self, if_gain: str | None) -> None:
        gain = canonical("gain", self.gain, GAINS)
        if if_gain is not None and not isinstance(if_gain, _Current):
            own = "r*g" if if_gain == "r*dt" else if_gain
            canonical("if_gain", own, dict.fromkeys(MEMBRANES, GAINS["IF"]))
            gain = canonical("gain", {name: value_of(gain, name, GAINS) for name in GAINS} | {"IF": own}, GAINS)
        object.__setattr__(self, "gain", gain)
        delay = canonical("reset_delay", self.reset_delay, RESET_DELAYS)
        object.__setattr__(self, "reset_delay", int(delay) if delay in ("0", "1") else delay)
        object.__setattr__(self, "clamp", canonical("clamp", self.clamp, CLAMPS))
        object.__setattr__(self, "initial_state", canonical("initial_state", self.initial_state, INITIAL_STATES))
        object.__setattr__(self, "if_gain", _Current(value_of(gain, "IF", GAINS).replace("r*g", "r*dt")))
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
        if self.reset_delay and (self.spikes_per_step, self.synapse) != ("one", "updated"):
            raise ArgumentError(
                "discretization, field 'reset_delay': expected spikes_per_step='one' and synapse='updated' with a "
                f"delayed reset, found {self.spikes_per_step!r} and {self.synapse!r}"
            )

    def gain_of(self, neurons: str) -> str:
        """The gain of a class of neurons.

        Args:
            neurons: "IF", "LIF", "CubaLIF" or "synapse".

        Returns:
            One of the choices of `gain`.
        """
        return value_of(str(self.gain), neurons, GAINS)

    def reset_delay_of(self, neurons: str) -> ResetDelay:
        """The delay of the reset of a class of neurons, in time steps.

        Args:
            neurons: "IF", "LIF" or "CubaLIF".

        Returns:
            0 or 1.
        """
        return 1 if value_of(str(self.reset_delay), neurons, RESET_DELAYS) == "1" else 0

    def initial_state_of(self, neurons: str) -> str:
        """The membrane potential before the first step of a class of neurons.

        Args:
            neurons: "IF", "LIF" or "CubaLIF".

        Returns:
            "zero", "v_reset" or "v_leak".
        """
        return value_of(str(self.initial_state), neurons, INITIAL_STATES)

    def clamp_of(self, neurons: str) -> str:
        """The lower bound of the membrane potential of a class of neurons.

        Args:
            neurons: "IF", "LIF" or "CubaLIF".

        Returns:
            "none", "zero" or "-threshold".
        """
        return value_of(str(self.clamp), neurons, CLAMPS)

    @classmethod
    def preset(cls, simulator: str, native: bool = False, **changes: Any) -> Discretization:
        """The discretization of a simulator.

        Args:
            simulator: A name of `PRESETS`: "norse", "snntorch", "sinabs", "spikingjelly", "rockpool", "spyx", "lava",
                "nengo".
            native: Of a network that is built and runs in the simulator, as its exporter writes it. False (default): of
                a file that the simulator imports. They differ for "norse", "snntorch" and "sinabs".
            **changes: Fields that replace those of the preset.

        Returns:
            The preset with these changes.

        Raises:
            ArgumentError: No preset has this name, or `Discretization` has no such field.
        """
        if simulator not in PRESETS:
            raise ArgumentError(f"preset: expected one of {', '.join(PRESETS)}, found {simulator!r}")
        unknown = sorted(set(changes) - {field.name for field in fields(cls)} - {"if_gain"})
        if unknown:
            raise ArgumentError(f"preset: expected fields of Discretization, found {', '.join(unknown)}")
        own = NATIVE.get(simulator, {}) if native else {}
        return replace(PRESETS[simulator], **{**own, **changes})

    @classmethod
    def norse(cls, native: bool = False, **changes: Any) -> Discretization:
        """As Norse 1.1.0 runs an imported graph (norse/torch/utils/import_nir.py): IF, LIF and CubaLIF, also recurrent.

        It starts at v_leak, resets to zero and ignores r of IF and LIF. Its CubaLIF adds v_leak to the synapse too,
        which no field expresses.

        Args:
            native: As its cells run by themselves: they reset to v_reset, where IAFCell also starts, and LIFCell adds
                its input to the synapse. Its exporter writes tau * dt and omits v_reset.
            **changes: Fields that replace those of the preset.

        Returns:
            The preset with these changes.
        """
        return cls.preset("norse", native, **changes)

    @classmethod
    def snntorch(cls, native: bool = False, **changes: Any) -> Discretization:
        """As snnTorch 1.0.0 runs an imported graph (snntorch/import_nir.py): LIF and CubaLIF.

        It resets to zero, and turns IF into a leaky neuron (beta = 0.9) whatever the file says, which no field
        expresses.

        Args:
            native: As `Leaky`, `Synaptic` and `RLeaky` run by default: a reset subtracts the threshold one step late.
                With reset_mechanism="zero", `reset="to-value"` for Leaky; Synaptic and RLeaky then lose the input of
                the step after a spike too, which no field expresses.
            **changes: Fields that replace those of the preset.

        Returns:
            The preset with these changes.
        """
        return cls.preset("snntorch", native, **changes)

    @classmethod
    def sinabs(cls, native: bool = False, **changes: Any) -> Discretization:
        """As sinabs 3.1.3 runs an imported graph (sinabs/nir.py), counting steps: IF, clamped at -threshold, and LIF.

        An input adds its weight, whatever r and tau are.

        Args:
            native: As `IAF` and `LIF` run by default: not clamped, and LIF multiplies its input by 1 - exp(-1 / tau).
            **changes: Fields that replace those of the preset.

        Returns:
            The preset with these changes.
        """
        return cls.preset("sinabs", native, **changes)

    @classmethod
    def spikingjelly(cls, **changes: Any) -> Discretization:
        """As SpikingJelly 2.0.0 runs IF, LIF and CubaLIF, also recurrent, imported or its own: it starts at v_reset."""
        return cls.preset("spikingjelly", **changes)

    @classmethod
    def rockpool(cls, **changes: Any) -> Discretization:
        """As Rockpool 3.1.0 runs its LIF (rockpool/nn/modules/torch/lif_torch.py): many spikes, reset by subtraction.

        An input adds its weight, and enters a synapse before its decay, whatever r, w_in and tau are. Its importer
        takes a dt of its own from tau and r, and adds v_leak in every step, which no field expresses.
        """
        return cls.preset("rockpool", **changes)

    @classmethod
    def spyx(cls, **changes: Any) -> Discretization:
        """As Spyx 1.0.0 counts steps (spyx/nn.py): IF, LIF and CubaLIF, whose spikes leave one step late.

        An input adds its weight. IF and LIF subtract the threshold one step late, CubaLIF before the decay.
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
        """As Nengo 4.1.0 runs a graph imported by the NIR paper's code: IF, and LIF, clamped at zero.

        nengo/neurons.py clamps. Nengo steps a synapse by Euler next to an exact membrane (CubaLIF differs).
        """
        return cls.preset("nengo", **changes)


_COUNTS_STEPS: Mapping[str, Any] = {
    "dt": 1.0,
    "integrator": "exponential",
    "spike_when": "reaching",
    "reset": "subtract",
    "spikes_per_step": "many",
}

PRESETS: Mapping[str, Discretization] = {
    "norse": Discretization(
        dt=1e-3, gain="IF:1, LIF:g", feedback="weight-output", reset_to="zero", initial_state="v_leak"
    ),
    "snntorch": Discretization(gain="IF:r", reset_to="zero"),
    "sinabs": Discretization(**_COUNTS_STEPS, gain="IF:1, LIF:1", feedback="weight-output", clamp="IF:-threshold"),
    "spikingjelly": Discretization(spike_when="reaching", feedback="weight-output", initial_state="v_reset"),
    "rockpool": Discretization(**{**_COUNTS_STEPS, "dt": 1e-3}, gain="IF:1, LIF:1, CubaLIF:1, synapse:decay"),
    "spyx": Discretization(
        dt=1.0,
        reset="subtract",
        gain="IF:1, LIF:1, CubaLIF:1, synapse:1",
        output_delay=1,
        reset_delay="IF:1, LIF:1",
    ),
    "lava": Discretization(gain="IF:r", output_delay=1),
    "nengo": Discretization(
        dt=1e-3, integrator="exponential", synapse="previous", gain="IF:r", clamp="LIF:zero, CubaLIF:zero"
    ),
}
"""Each simulator's discretization of a file that it imports, as data. Its method states the limits."""

NATIVE: Mapping[str, Mapping[str, Any]] = {
    "norse": {
        "reset_to": "v_reset",
        "gain": "IF:1, LIF:g, CubaLIF:g, synapse:1",
        "initial_state": "IF:v_reset, LIF:v_leak, CubaLIF:v_leak",
    },
    "snntorch": {"reset": "subtract", "reset_delay": 1},
    "sinabs": {"gain": "IF:1, LIF:g, CubaLIF:g, synapse:decay", "clamp": "none"},
}
"""What differs for a network that is built and runs in the simulator."""
