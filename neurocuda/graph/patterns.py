"""Reset by subtraction as standard NIR writes it: I -> Threshold, and a Scale from the threshold back to the I."""

from __future__ import annotations

from dataclasses import dataclass

from neurocuda.graph.model import Graph


@dataclass(frozen=True)
class SoftReset:
    """The nodes of such a cycle: the threshold alone listens to the integrator, and it alone to the scale."""

    integrator: str
    threshold: str
    scale: str


def soft_resets(graph: Graph) -> tuple[SoftReset, ...]:
    """The cycles of a graph that are a soft reset, one for each integrator, in order of name."""
    into: dict[str, list[str]] = {name: [] for name in graph.nodes}
    out_of: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in graph.edges:
        into[b].append(a)
        out_of[a].append(b)
    found = []
    for name, node in graph.nodes.items():
        spikes = out_of[name][0] if node.type == "I" and len(out_of[name]) == 1 else None
        if spikes is None or graph.nodes[spikes].type != "Threshold" or into[spikes] != [name]:
            continue
        for back in out_of[spikes]:
            if graph.nodes[back].type == "Scale" and into[back] == [spikes] and out_of[back] == [name]:
                found.append(SoftReset(name, spikes, back))
                break
    return tuple(found)
