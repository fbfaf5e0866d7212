"""Replaces average pools by sum pools, and divides the weights after them, or else before them, by the area.

A sum of integers is an integer; their mean is mostly on no power-of-two grid.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from neurocuda.graph import Graph, Node


class _CannotFold(Exception):
    """Pools that cannot be replaced, and the node that prevents it."""

    def __init__(self, pools: frozenset[str], because: str) -> None:
        super().__init__(pools, because)
        self.pools, self.because = pools, because


def with_sums(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """The graph with SumPool2d for AvgPool2d where weights can absorb the division, and a note for each pool.

    The weights after a pool take the division if nothing else reads the pool. Otherwise, unless the area is a power of
    two, the weights before it do.
    """
    into = graph.sources
    pools = [name for name, node in graph.nodes.items() if node.primitive.averages]
    changed, blocked = set(pools), dict[str, str]()
    while True:
        try:
            factors = _Factors(graph, changed)
            factor = {name: factors.into(name)[0] for name in graph.nodes}
            break
        except _CannotFold as clash:
            changed -= clash.pools
            blocked |= dict.fromkeys(clash.pools, clash.because)
    areas = {name: math.prod(graph.nodes[name].numbers("kernel_size")) for name in pools}
    before = {
        source: name
        for name in pools
        if name not in changed and areas[name].bit_count() != 1 and _alone(graph, name)
        for source in into[name]
    }
    nodes = {}
    for name, node in graph.nodes.items():
        if name in changed or name in before.values():
            nodes[name] = replace(node, type="SumPool2d")
        elif node.primitive.weight_field and (factor[name] != 1 or name in before):
            nodes[name] = _divided(node, factor[name], areas[before[name]] if name in before else 1)
    notes = []
    for name in pools:
        if name in nodes:
            takers = into[name] if name in before.values() else _layers_behind(graph, name)
            whose = ", ".join(map(repr, sorted(set(takers))))
            notes.append(f"node {name!r}: AvgPool2d became SumPool2d, 1/{areas[name]} went into the weights of {whose}")
        else:
            rest = "a power of two" if areas[name].bit_count() == 1 else "no power of two: its mean leaves the grid"
            notes.append(f"node {name!r}: AvgPool2d stays, as {blocked[name]!r} cannot take 1/{areas[name]}, {rest}")
    return replace(graph, nodes={**graph.nodes, **nodes}), tuple(notes)


def _alone(graph: Graph, pool: str) -> bool:
    """Whether all sources of a pool have weights, and no other target."""
    sources = graph.sources[pool]
    return bool(sources) and all(
        graph.nodes[name].primitive.weight_field and set(graph.targets[name]) == {pool} for name in sources
    )


def _divided(node: Node, into: int, out: int) -> Node:
    """A layer or a Scale for an input `into` times as large, whose output is divided by `out`."""
    field = node.primitive.weight_field
    assert field is not None
    fresh: dict[str, np.ndarray] = {field: node.array(field).astype(np.float64) / (into * out)}
    if out != 1 and "bias" in node.parameters:
        fresh["bias"] = node.array("bias").astype(np.float64) / out
    return replace(node, parameters={**node.parameters, **fresh})


def _carries(node: Node) -> bool:
    """Whether a multiple of the input leads to the same multiple of the output, and there is no weight to divide."""
    return node.primitive.is_pool or node.primitive.forwards_values


class _Factors:
    """The factors by which the signals of a graph grow when the pools `changed` output sums."""

    def __init__(self, graph: Graph, changed: set[str]) -> None:
        self.graph, self.changed = graph, changed
        self.known: dict[str, tuple[int, frozenset[str]]] = {}
        self.path: list[str] = []

    def into(self, name: str) -> tuple[int, frozenset[str]]:
        """The factor of a node's input, and the pools that it comes from."""
        found = [self.out_of(source) for source in self.graph.sources[name]]
        pools: frozenset[str] = frozenset().union(*(pools for _, pools in found))
        factor = found[0][0] if found else 1
        node = self.graph.nodes[name]
        takes = node.primitive.weight_field is not None or _carries(node)
        if any(other != factor for other, _ in found) or (factor != 1 and not takes):
            raise _CannotFold(pools, name)
        return factor, pools

    def out_of(self, name: str) -> tuple[int, frozenset[str]]:
        """The factor of a node's output, and the pools that it comes from."""
        node = self.graph.nodes[name]
        if not _carries(node):
            return 1, frozenset()
        if name in self.path:  # a cycle without weights
            if self.changed.intersection(self.path):
                raise _CannotFold(frozenset(self.path) & self.changed, name)
            return 1, frozenset()
        if name not in self.known:
            self.path.append(name)
            factor, pools = self.into(name)
            self.path.pop()
            if name in self.changed:
                factor, pools = factor * math.prod(node.numbers("kernel_size")), pools | {name}
            self.known[name] = factor, pools
        return self.known[name]


def _layers_behind(graph: Graph, name: str) -> list[str]:
    """The nodes with weights that read a node, directly or through nodes without."""
    found, waiting, seen = set(), list(graph.targets[name]), {name}
    while waiting:
        reader = waiting.pop()
        if reader in seen:
            continue
        seen.add(reader)
        if graph.nodes[reader].primitive.weight_field:
            found.add(reader)
        else:
            waiting += graph.targets[reader]
    return sorted(found)
