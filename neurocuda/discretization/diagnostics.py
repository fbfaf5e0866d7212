"""What keeps a valid graph from running under a discretization, and neurons that are unstable under it."""

from __future__ import annotations

import math
from dataclasses import fields

from torch import Tensor

from neurocuda.discretization.coefficients import INITIAL_V, coefficients, neuron_parameters, stated_potential
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import Problem
from neurocuda.graph import Graph
from neurocuda.graph.fields import Unfit

_MOST_HISTORY = 2**28
"""The most values in the history of a Delay for one sample: 1 GiB."""


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
