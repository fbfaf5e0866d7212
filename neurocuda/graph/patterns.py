"""Finds soft resets as standard NIR writes them: I -> Threshold, and a Scale from the threshold back to the I."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from neurocuda.graph.model import Graph, Node


@dataclass(frozen=True)
class SoftReset:
    """The nodes of a soft reset. The threshold is the integrator's only target, the integrator the scale's only one."""

    integrator: str
    threshold: str
    scale: str


def soft_resets(graph: Graph) -> tuple[SoftReset, ...]:
    """The soft resets of a graph, at most one for each integrator, in order of name."""
    into, out_of = graph.sources, graph.targets
    found = []
    for name, node in graph.nodes.items():
        spikes = out_of[name][0] if node.type == "I" and len(out_of[name]) == 1 else None
        if spikes is None or graph.nodes[spikes].type != "Threshold" or into[spikes] != (name,):
            continue
        for back in out_of[spikes]:
            if graph.nodes[back].type == "Scale" and into[back] == (spikes,) and out_of[back] == (name,):
                found.append(SoftReset(name, spikes, back))
                break
    return tuple(found)


def replaced(graph: Graph, neuron: Callable[[SoftReset], Node]) -> Graph:
    """The graph with each soft reset replaced by one neuron, which has the name of the integrator."""
    loops = soft_resets(graph)
    gone = {name for loop in loops for name in (loop.threshold, loop.scale)}
    nodes = {name: node for name, node in graph.nodes.items() if name not in gone}
    nodes |= {loop.integrator: neuron(loop) for loop in loops}
    spikes = {loop.threshold: loop.integrator for loop in loops}
    edges = [(spikes.get(a, a), b) for a, b in graph.edges if b not in gone and (a in spikes or a not in gone)]
    return replace(graph, nodes=nodes, edges=tuple(edges))
