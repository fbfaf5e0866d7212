"""Diagnostics of a graph under a discretization: errors, and warnings of probable mistakes.

Warns of neurons that cannot fire and of time steps longer than a time constant. Guesses the tool that wrote a graph.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields

import numpy as np
from torch import Tensor

from neurocuda.discretization.coefficients import INITIAL_V, coefficients, neuron_parameters, stated_potential
from neurocuda.discretization.metadata import contradictions, stated
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import Problem
from neurocuda.graph import Graph, Node
from neurocuda.graph.fields import Unfit

_MOST_HISTORY = 2**28
"""The most values in the history of a Delay for one sample: 1 GiB."""

_HOPELESS = 1000.0
"""Input spikes through the strongest weight per output spike above which an IF is implausible."""


def problems(graph: Graph, d: Discretization) -> tuple[Problem, ...]:
    """The problems of a valid graph under this discretization, such as overflow in float32, in order of the nodes."""
    found: list[Problem] = []
    for node in graph.nodes.values():
        where = f"node {node.name!r}"
        if node.primitive.is_delay:
            most = float(node.array("delay").max()) / d.dt
            if most * math.prod(node.input_shape) > _MOST_HISTORY:
                expected = f"at most {_MOST_HISTORY} values to keep for a sample, in steps of {d.dt:g} s"
                size = math.prod(node.input_shape)
                found.append(Problem(where, "delay", expected, f"{most:.6g} steps of {size} elements"))
        if not node.primitive.is_neuron:
            continue
        if INITIAL_V in node.metadata:
            try:
                stated_potential(node)
            except Unfit as unfit:
                found.append(Problem(where, f"metadata {INITIAL_V}", unfit.expected, unfit.found))
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


def doubts(graph: Graph, d: Discretization) -> list[str]:
    """Warnings of probable mistakes when `graph` runs with `d`."""
    lines = coarse_steps(graph, d)
    lines += contradictions(graph, d)
    own = np.asarray(graph.metadata.get("dt"))
    own_dt = float(own.item()) if stated(graph) is None and own.size == 1 and own.dtype.kind in "iuf" else d.dt
    if np.float32(own_dt) != np.float32(d.dt):
        lines.append(f"the graph was written for dt = {own_dt:g} s, but is run with dt = {d.dt:g} s")
    weak = [node for node in _integrate_and_fire(graph) if _spikes_to_fire(graph, node, d) > _HOPELESS]
    if weak:
        names = ", ".join(repr(node.name) for node in weak[:3]) + (" ..." if len(weak) > 3 else "")
        most = min(_spikes_to_fire(graph, node, d) for node in weak)
        lines.append(
            f"IF {names}: one output spike takes at least {most:.0f} input spikes through the strongest weight "
            f"(r = {float(weak[0].array('r').max()):g}, dt = {d.dt:g} s); the exporter most likely meant "
            f"{_meant(graph)}"
        )
    return lines


def _integrate_and_fire(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes.values() if n.primitive.is_spiking and not n.primitive.is_leaky]


def _spikes_to_fire(graph: Graph, node: Node, d: Discretization) -> float:
    """Input spikes through the strongest weight that bring the neuron with the lowest threshold to it."""
    gain = float(np.abs(node.array("r")).max()) * (d.dt if d.gain_of("IF") == "r*g" else 1.0)
    strongest = 0.0
    for source in graph.sources[node.name]:
        origin = graph.nodes[source]
        field = origin.primitive.weight_field
        strongest = max(strongest, 1.0 if field is None else float(np.abs(origin.array(field)).max()))
    drive = gain * strongest
    return float(np.abs(node.array("v_threshold")).min()) / drive if drive > 0 else 0.0


def _meant(graph: Graph) -> str:
    exporter = likely_exporter(graph)
    if exporter in ("sinabs", "spikingjelly", "norse"):
        return f"if_gain='r' (Discretization.{exporter}())"
    return "if_gain='r': a spike adds r times its weight, whatever dt is"


def likely_exporter(graph: Graph) -> str | None:
    """The simulator that most likely wrote the graph, from names and parameters; None if unclear."""
    names = list(graph.nodes)
    if any(re.fullmatch(r"\d+_\w+(Torch|Jax)", name) for name in names):
        return "rockpool"
    if any(name.endswith((".w_rec", ".lif")) for name in names):
        return "snntorch"
    fires = _integrate_and_fire(graph)
    counted = all(node.array("r").size == 1 and float(node.array("r").reshape(-1)[0]) == 1.0 for node in fires)
    if fires and counted and any(n.primitive.is_pool and not n.primitive.averages for n in graph.nodes.values()):
        return "sinabs"
    return None
