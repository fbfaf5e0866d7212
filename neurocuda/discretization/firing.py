"""Neurons that cannot fire, or fire at every step, whatever reaches them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from neurocuda.discretization.drive import Bounds, input_bounds
from neurocuda.discretization.settings import PRESETS, Discretization
from neurocuda.discretization.units import Doubt
from neurocuda.graph import Graph, Node
from neurocuda.ops.coefficients import NeuronCoefficients

_HOPELESS = 1000.0
"""Input spikes through the strongest weight per output spike above which an IF is implausible; and the ratio of one
such spike to the threshold above which any neuron is."""

_LONG_RUN = 10_000
"""Time steps within which a neuron should be able to fire."""

_MARGIN = 10.0
"""How much stronger the input of a neuron may become before it could fire: a mistake of units is larger."""

Neurons = Mapping[str, NeuronCoefficients]


def firing_doubts(
    graph: Graph, d: Discretization, neurons: Neurons, exporter: str | None, *, leaky: bool
) -> Iterator[Doubt]:
    """At most one warning for each cause. leaky: whether neurons with time constants are checked too."""
    spiking = {
        name: c
        for name, c in neurons.items()
        if c.threshold is not None and (leaky or not graph.nodes[name].primitive.is_leaky)
    }
    weak = dict(_weak_integrators(graph, spiking))
    if weak:
        yield _of_weak(graph, d, weak, exporter)
    strong = dict(_strong_inputs(graph, spiking))
    if strong:
        yield _of_strong(graph, d, strong)
    bounds = input_bounds(graph, spikes_per_step=d.spikes_per_step)
    known = {name: (c, bounds[name]) for name, c in spiking.items() if name in bounds and _is_stable(c)}
    silent = [name for name, (c, x) in known.items() if _leaks(graph, name) and _is_silent(c, x)]
    if silent:
        yield Doubt(
            f"{_names(silent)}: no neuron can fire within {_LONG_RUN} steps of dt = {d.dt:g} s, even if every source "
            "fires at every step; check the units of r, w_in, v_threshold and the weights"
        )
    fed = {name: pair for name, pair in known.items() if name not in strong and graph.sources[name]}
    saturated = [name for name, (c, x) in fed.items() if _is_saturated(c, x)]
    if saturated:
        yield Doubt(
            f"{_names(saturated)}: every neuron fires at every step of dt = {d.dt:g} s, whatever its input; check "
            "v_threshold, v_leak and the biases"
        )


def _weak_integrators(graph: Graph, neurons: Neurons) -> Iterator[tuple[str, float]]:
    """IFs with the input spikes that bring the neuron of the lowest threshold to it, where these are too many."""
    for name, c in neurons.items():
        node = graph.nodes[name]
        level = np.abs(node.array("v_threshold")).min()
        drive = float(c.gain_v.abs().max()) * _strongest_weight(graph, node)
        if not node.primitive.is_leaky and np.isfinite(level) and drive > 0 and level / drive > _HOPELESS:
            yield name, float(level) / drive


def _of_weak(graph: Graph, d: Discretization, weak: Mapping[str, float], exporter: str | None) -> Doubt:
    meant, remedy = "if_gain='r': a spike adds r times its weight, whatever dt is", replace(d, if_gain="r")
    if exporter in ("norse", "sinabs", "spyx"):
        meant, remedy = f"if_gain='r' (Discretization.{exporter}())", PRESETS[exporter]
    r = float(graph.nodes[next(iter(weak))].array("r").max())
    text = (
        f"IF {_names(list(weak))}: one output spike takes at least {min(weak.values()):.0f} input spikes through the "
        f"strongest weight (r = {r:g}, dt = {d.dt:g} s); the exporter most likely meant {meant}"
    )
    return Doubt(text, remedy)


def _strong_inputs(graph: Graph, neurons: Neurons) -> Iterator[tuple[str, float]]:
    """Neurons with the ratio of one input spike through the strongest weight to the threshold, where it is too high."""
    for name, c in neurons.items():
        assert c.threshold is not None
        gain = c.gain_v if c.gain_i is None else c.gain_v * c.gain_i
        drive = float(gain.abs().min()) * _strongest_weight(graph, graph.nodes[name])
        level = float(c.threshold.abs().max())
        if level > 0 and drive / level > _HOPELESS:
            yield name, drive / level


def _of_strong(graph: Graph, d: Discretization, strong: Mapping[str, float]) -> Doubt:
    first = graph.nodes[next(iter(strong))]
    r = float(first.array("r").max())
    request, remedy = "check the units of r, w_in and the weights", None
    if not first.primitive.is_leaky and r > 1:
        remedy = replace(d, if_gain="r*dt", dt=float(f"{1 / r:.6g}"))
        request = f"the exporter most likely meant if_gain='r*dt' with dt={remedy.dt:g}, as SpikingJelly writes IF"
    text = (
        f"{first.type} {_names(list(strong))}: one input spike through the strongest weight is "
        f"{max(strong.values()):.3g} times the threshold (r = {r:g}, dt = {d.dt:g} s); {request}"
    )
    return Doubt(text, remedy)


def _strongest_weight(graph: Graph, node: Node) -> float:
    """The strongest weight into a neuron; 1 for a source without weights, 0 without a source."""
    strongest = 0.0
    for source in graph.sources[node.name]:
        origin = graph.nodes[source]
        field = origin.primitive.weight_field
        strongest = max(strongest, 1.0 if field is None else float(np.abs(origin.array(field)).max()))
    return strongest


def _leaks(graph: Graph, name: str) -> bool:
    """Whether a neuron leaks, has sources, and has thresholds that are meant to be reached."""
    node = graph.nodes[name]
    finite = node.primitive.is_leaky and bool(np.isfinite(node.array("v_threshold")).all())
    return finite and bool(graph.sources[name])


def _is_stable(c: NeuronCoefficients) -> bool:
    decays = [c.decay_v] if c.decay_i is None else [c.decay_v, c.decay_i]
    return all(bool(((decay >= 0) & (decay <= 1)).all()) for decay in decays)


def _is_silent(c: NeuronCoefficients, x: Bounds) -> bool:
    """Whether no neuron reaches a tenth of its threshold in a long run under the strongest input.

    A population that only inhibition reaches may be meant.
    """
    assert c.threshold is not None
    if x.high <= 0 <= float(c.gain_v.min()):
        return False
    low, high = _current(c, x)
    gain = c.gain_v.double()
    drive = torch.maximum(gain * low, gain * high) + c.bias_v.double()
    highest = drive.clamp(min=0) * _accumulated(c.decay_v)
    start = torch.zeros(()) if c.v_reset is None else c.v_reset.double().clamp(min=0)
    return bool((start + _MARGIN * highest <= c.threshold.double()).all())


def _is_saturated(c: NeuronCoefficients, x: Bounds) -> bool:
    """Whether every neuron fires from rest and after each reset, under the weakest input."""
    assert c.threshold is not None
    low, high = _current(c, x)
    gain = c.gain_v.double()
    drive = torch.minimum(gain * low, gain * high) + c.bias_v.double()
    rest = torch.zeros(())
    if c.v_reset is not None and c.reset == "to-value":
        rest = (c.v_reset.double() * c.decay_v.double()).clamp(max=0)
    return bool((drive + rest > c.threshold.double()).all())


def _current(c: NeuronCoefficients, x: Bounds) -> tuple[Tensor, Tensor]:
    """The least and the largest current into the membrane in a long run: the input itself without a synapse."""
    low, high = torch.tensor(x.low, dtype=torch.float64), torch.tensor(x.high, dtype=torch.float64)
    if c.gain_i is None or c.decay_i is None:
        return low, high
    gain, most = c.gain_i.double(), _accumulated(c.decay_i)
    currents = [gain * end * steps for end in (low, high) for steps in (torch.ones(()), most)]
    first = [torch.zeros(())] if c.synapse == "previous" else []
    stacked = torch.stack([torch.broadcast_to(t, gain.shape) for t in [*currents, *first]])
    return stacked.amin(0), stacked.amax(0)


def _accumulated(decay: Tensor) -> Tensor:
    """The sum of decay^k over the steps of a long run: what a constant input of 1 adds up to."""
    decay = decay.double()
    leak = 1 - decay
    return torch.where(leak > 0, (1 - decay**_LONG_RUN) / leak.clamp(min=1e-30), float(_LONG_RUN))


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (" ..." if len(names) > 3 else "")
