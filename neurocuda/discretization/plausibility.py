"""Warnings of graphs that are probably meant for another discretization, and the discretization that these suggest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurocuda.discretization.coefficients import coefficients, neuron_parameters
from neurocuda.discretization.exporters import exporter_dt, likely_exporter
from neurocuda.discretization.firing import firing_doubts
from neurocuda.discretization.metadata import contradictions, stated
from neurocuda.discretization.settings import PRESETS, Discretization
from neurocuda.discretization.units import Doubt, time_doubts
from neurocuda.graph import Graph

_MOST_CAUSES = 4
"""The remedies that are applied one after the other."""


def doubts(graph: Graph, d: Discretization) -> list[str]:
    """Warnings of probable mistakes when `graph` runs with `d`: at most one for each cause."""
    return [doubt.text for doubt in _doubts(graph, d)]


def likely_discretization(graph: Graph) -> Discretization:
    """The discretization that a graph is probably meant for.

    It is the one that it states; else the preset of its likely exporter, or the default, with the dt that its metadata
    or its neurons state, and with what the warnings of `doubts` request.
    """
    own = stated(graph)
    if own is not None:
        return own
    exporter = likely_exporter(graph)
    d = PRESETS.get(exporter or "", Discretization())
    dt = _stated_dt(graph) or exporter_dt(graph, exporter)
    d = d if dt is None else replace(d, dt=dt)
    for _ in range(_MOST_CAUSES):
        remedies = [doubt.remedy for doubt in _doubts(graph, d)]
        remedy = next((remedy for remedy in remedies if remedy is not None and remedy != d), None)
        if remedy is None:
            break
        d = remedy
    return d


def _doubts(graph: Graph, d: Discretization) -> list[Doubt]:
    exporter = likely_exporter(graph)
    neurons = {
        name: coefficients(node, neuron_parameters(node), d)
        for name, node in graph.nodes.items()
        if node.primitive.is_neuron
    }
    found = [*time_doubts(graph, d, exporter)]
    units = bool(found)
    dt = _stated_dt(graph)
    if dt is not None and np.float32(dt) != np.float32(d.dt):
        text = f"the graph was written for dt = {dt:g} s, but is run with dt = {d.dt:g} s"
        found.append(Doubt(text, replace(d, dt=dt)))
    found += [Doubt(line, stated(graph)) for line in contradictions(graph, d)]
    return [*found, *firing_doubts(graph, d, neurons, exporter, leaky=not units)]


def _stated_dt(graph: Graph) -> float | None:
    """The dt of a file's metadata that state no Discretization, if any."""
    if stated(graph) is not None:
        return None
    dt = np.asarray(graph.metadata.get("dt"))
    return float(dt.item()) if dt.size == 1 and dt.dtype.kind in "iuf" and np.isfinite(dt) and dt > 0 else None
