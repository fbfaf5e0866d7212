"""What one time step means: `Discretization`, a preset for each simulator, and the coefficients they lead to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from neurocuda.errors import ArgumentError, Problem
from neurocuda.graph import NEURONS, SPIKING, Graph, Node, align
from neurocuda.ops.coefficients import NeuronCoefficients, Reset, SpikesPerStep, SpikeWhen, Synapse

_MOST_HISTORY = 2**28
"""Values that a Delay may have to keep for a sample: 1 GiB."""


@dataclass(frozen=True)
class Discretization:
    """How the continuous-time neurons of NIR are stepped.

    dt: length of a step in seconds. integrator: forward Euler, or exact for constant input. spike_when: a
    neuron fires above its threshold (NIR) or on reaching it. reset: to v_reset (NIR) or by subtracting the
    threshold. synapse: the membrane sees the current updated in this step, or that of the step before.
    spikes_per_step: one, or floor(u / threshold). if_gain: what one unit of input adds to IF and I: r*dt
    (NIR: v' = R I) or r. feedback: which edges of a cycle are delayed by one step: those that leave spiking
    neurons, or those that enter neurons. output_delay: 1 if spikes leave one step late.
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

    @classmethod
    def preset(cls, simulator: str, **changes: Any) -> Discretization:
        """The discretization of a simulator by name (see `PRESETS`), with fields changed by keyword."""
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
"""Each simulator's discretization, as data. Its method on `Discretization` says how far the fields carry."""


def coefficients(node: Node, p: Mapping[str, Tensor], d: Discretization) -> NeuronCoefficients:
    """The float32 coefficients of a neuron from its parameters `p`, float64, aligned with the signal.

    Computed in float64 and rounded once. With euler g(tau) = dt / tau, with exponential 1 - exp(-dt / tau);
    decay = 1 - g; the gain of a membrane is r g, of a synapse w_in g, of IF and I r dt (or r).
    """
    synapse: dict[str, Tensor] = {}
    if node.type in ("I", "IF"):
        decay_v = torch.ones_like(p["r"])
        gain_v = p["r"] * d.dt if d.if_gain == "r*dt" else p["r"]
        bias_v = torch.zeros_like(p["r"])
    else:
        decay_v, gain = _decay_and_gain(p["tau_mem" if "tau_mem" in p else "tau"], d)
        gain_v, bias_v = p["r"] * gain, p["v_leak"] * gain
    if "tau_syn" in p:
        decay_i, gain = _decay_and_gain(p["tau_syn"], d)
        synapse = {"decay_i": decay_i.float(), "gain_i": (p["w_in"] * gain).float()}
    firing: dict[str, Tensor] = {}
    if node.type in SPIKING:
        firing = {"threshold": p["v_threshold"].float(), "v_reset": p["v_reset"].float()}
    return NeuronCoefficients(
        decay_v=decay_v.float(),
        gain_v=gain_v.float(),
        bias_v=bias_v.float(),
        **synapse,
        **firing,
        spike_when=d.spike_when,
        reset=d.reset,
        synapse=d.synapse,
        spikes_per_step=d.spikes_per_step,
    )


def coefficients_together(
    nodes: Mapping[str, Node], parameters: Mapping[str, Mapping[str, Tensor]], d: Discretization
) -> dict[str, NeuronCoefficients]:
    """`coefficients` of several neurons by name, with few operations: on a GPU their number is the cost.

    Neurons of one type whose parameters are one value each are computed side by side.
    """
    result: dict[str, NeuronCoefficients] = {}
    alike: dict[str, list[str]] = {}
    for name, p in parameters.items():
        if all(value.numel() == 1 for value in p.values()):
            alike.setdefault(nodes[name].type, []).append(name)
        else:
            result[name] = coefficients(nodes[name], p, d)
    for names in alike.values():
        first = parameters[names[0]]
        rows = {field: torch.cat([parameters[name][field].flatten() for name in names]) for field in first}
        of_all = coefficients(nodes[names[0]], rows, d)
        for place, name in enumerate(names):
            shape = next(iter(parameters[name].values())).shape
            values = {field.name: getattr(of_all, field.name) for field in fields(of_all)}
            own: dict[str, Any] = {
                field: value[place].reshape(shape) for field, value in values.items() if isinstance(value, Tensor)
            }
            result[name] = replace(of_all, **own)
    return result


def _decay_and_gain(tau: Tensor, d: Discretization) -> tuple[Tensor, Tensor]:
    if d.integrator == "euler":
        gain = d.dt / tau
        return 1 - gain, gain
    decay = torch.exp(-d.dt / tau)
    return decay, 1 - decay


def neuron_parameters(node: Node) -> dict[str, Tensor]:
    """The parameters of a neuron as float64, aligned with its signal."""
    rank = len(node.input_shape)
    return {name: torch.from_numpy(align(node.array(name), rank).astype(np.float64)) for name in node.parameters}


def delay_steps(node: Node, d: Discretization) -> Tensor:
    """The delay of each element in steps, int64, aligned with the signal: quotient by dt, half to even."""
    quotient = np.rint(align(node.array("delay"), len(node.input_shape)).astype(np.float64) / d.dt)
    return torch.from_numpy(quotient.astype(np.int64))


def problems(graph: Graph, d: Discretization) -> tuple[Problem, ...]:
    """What of a sound graph has no meaning in float32 under this discretization, in order of the nodes."""
    found: list[Problem] = []
    for node in graph.nodes.values():
        where = f"node {node.name!r}"
        if node.type == "Delay":
            most = float(node.array("delay").max()) / d.dt
            if most * math.prod(node.input_shape) > _MOST_HISTORY:
                expected = f"at most {_MOST_HISTORY} values to keep for a sample, in steps of {d.dt:g} s"
                size = math.prod(node.input_shape)
                found.append(Problem(where, "delay", expected, f"{most:.6g} steps of {size} elements"))
        if node.type not in NEURONS:
            continue
        c = coefficients(node, neuron_parameters(node), d)
        for field in fields(c):
            value = getattr(c, field.name)
            if isinstance(value, Tensor) and not bool(value.isfinite().all()):
                found.append(
                    Problem(f"{where}, coefficient {field.name!r}", None, "finite float32 numbers", "overflow")
                )
        if c.threshold is not None and d.spikes_per_step == "many" and bool((c.threshold <= 0).any()):
            expected = "values > 0 with spikes_per_step='many'"
            found.append(Problem(where, "v_threshold", expected, f"{float(c.threshold.min()):.6g}"))
    return tuple(found)


def coarse_steps(graph: Graph, d: Discretization) -> list[str]:
    """A line for each neuron whose time constants are shorter than a step under forward Euler."""
    lines = []
    for node in graph.nodes.values():
        for name in ("tau", "tau_mem", "tau_syn"):
            if d.integrator == "euler" and name in node.parameters and node.array(name).min() < d.dt:
                shortest = float(node.array(name).min())
                lines.append(
                    f"node {node.name!r}: {name} = {shortest:.6g} s is shorter than dt = {d.dt:g} s; with "
                    "integrator='euler' its decay is negative and it oscillates"
                )
    return lines
