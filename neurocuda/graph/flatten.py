"""Flattens nested NIR graphs: nodes named `outer.inner`, edges resolved, missing Inputs and Outputs added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurocuda.errors import Problem, nearest
from neurocuda.graph.added_terminals import explained
from neurocuda.graph.fields import describe
from neurocuda.graph.primitives import PRIMITIVES

Raw = Mapping[str, Any]
"""A node of a file: its fields by name, `type` among them."""

_DEEPEST = 64
_TERMINAL = {"source": "Output", "target": "Input"}


@dataclass(frozen=True)
class FlatNode:
    """A node with its flat name; its type is 'Identity' for the Input or Output of a nested graph."""

    name: str
    type: str
    fields: Raw
    invented: bool


@dataclass
class FlatGraph:
    """The flat graph, nodes and edges by flat name, and its problems.

    severed: nodes that lost an edge to a problem; nothing is inferred from its absence.
    """

    nodes: dict[str, FlatNode] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    severed: set[str] = field(default_factory=set)

    def report(self, where: str, field: str | None, expected: str, found: str) -> None:
        self.problems.append(Problem(where, field, expected, found))


@dataclass(frozen=True)
class _Level:
    """One of the nested graphs: its nodes by local name, the graphs among them, its edges.

    broken: nodes that could not be read and were reported; edges to them are ignored. invented: Inputs and Outputs
    that the file does not have.
    """

    prefix: str
    leaves: dict[str, Raw]
    graphs: dict[str, _Level]
    edges: list[tuple[str, str]]
    invented: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)

    @property
    def title(self) -> str:
        return f"graph {self.prefix[:-1]!r}" if self.prefix else "the graph"

    def terminals(self, type: str) -> list[str]:
        return sorted(name for name, raw in self.leaves.items() if raw["type"] == type)

    def names(self) -> list[str]:
        return [*self.leaves, *self.graphs, *self.broken]


def inline(raw: Raw) -> FlatGraph:
    """Flattens `raw`, the fields of a NIRGraph in a file."""
    flat = FlatGraph()
    top = _read_level(raw, "", 0, flat)
    if top is not None:
        _invent_terminals(top, flat)
        _collect(top, flat)
    return flat


def _read_level(raw: Raw, prefix: str, depth: int, flat: FlatGraph) -> _Level | None:
    level = _Level(prefix, {}, {}, [])
    nodes = raw.get("nodes")
    if not isinstance(nodes, Mapping):
        flat.report(level.title, "nodes", "a group of nodes", "none" if nodes is None else describe(nodes))
        return None
    for name in sorted(nodes):
        node, where = nodes[name], f"node {prefix + name!r}"
        level.broken.add(name)
        if not isinstance(node, Mapping) or "type" not in node:
            found = "a group without" if isinstance(node, Mapping) else describe(node)
            flat.report(where, "type", "a group with a field 'type'", found)
            continue
        type = _text(node["type"])
        if type == "NIRGraph" and depth < _DEEPEST:
            inner = _read_level(node, f"{prefix}{name}.", depth + 1, flat)
            if inner is not None:
                level.graphs[name] = inner
                level.broken.remove(name)
        elif type == "NIRGraph":
            flat.report(where, None, f"at most {_DEEPEST} graphs inside each other", "one more")
        elif not isinstance(type, str) or type not in PRIMITIVES or type == "Identity":
            known = ", ".join(sorted(set(PRIMITIVES) - {"Identity"}))
            flat.report(where, "type", f"a NIR primitive ({known})", describe(type))
        else:
            level.leaves[name] = {**node, "type": type}
            level.broken.remove(name)
    level.edges.extend(_read_edges(raw, level, flat))
    return level


def _read_edges(raw: Raw, level: _Level, flat: FlatGraph) -> Iterator[tuple[str, str]]:
    edges = raw.get("edges")
    if edges is None or isinstance(edges, Mapping | str | bytes) or np.ndim(edges) not in (1, 2):
        flat.report(level.title, "edges", "a list of pairs of names", "none" if edges is None else describe(edges))
        return
    if isinstance(edges, np.ndarray) and edges.size and edges.ndim != 2:
        flat.report(level.title, "edges", "a list of pairs of names", describe(edges))
        return
    for edge in edges:
        ends = list(edge) if isinstance(edge, tuple | list | np.ndarray) and np.ndim(edge) == 1 else []
        pair = [_text(end) for end in ends]
        if len(pair) != 2 or not all(isinstance(end, str) for end in pair):
            flat.report(level.title, "edges", "pairs of names", describe(edge))
            return
        yield pair[0], pair[1]


def _text(value: Any) -> Any:
    """Bytes as str, another value as it is."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _invent_terminals(level: _Level, flat: FlatGraph) -> None:
    """Adds to each graph without an Input (Output) one for each node without incoming (outgoing) edges."""
    for graph in level.graphs.values():
        _invent_terminals(graph, flat)
    for type, stem, end, direction in (("Input", "input", 1, "incoming"), ("Output", "output", 0, "outgoing")):
        if level.terminals(type) or level.broken:  # a broken node may be the missing one
            continue
        touched = {_local(level, edge[end]) for edge in level.edges}
        loose = sorted(set(level.names()) - touched)
        for name in loose:
            invented = unused(f"{stem}_{name}", level.names())
            level.leaves[invented] = {"type": type}
            level.invented.add(invented)
            level.edges.append((invented, name) if type == "Input" else (name, invented))
        if not loose and not level.prefix:
            expected = f"an {type} node, or a node without {direction} edges that one is added to"
            flat.report(level.title, None, expected, "neither")


def unused(stem: str, names: list[str]) -> str:
    """`stem`, or the first of stem_0, stem_1, ... that is not among `names`."""
    name, count = stem, 0
    while name in names:
        name, count = f"{stem}_{count}", count + 1
    return name


def _local(level: _Level, end: str) -> str:
    """The node or nested graph of this level that an edge end names or reaches into."""
    if end in level.names():
        return end
    reached = [name for name in [*level.graphs, *level.broken] if end.startswith(f"{name}.")]
    return max(reached, key=len, default=end)


def _collect(level: _Level, flat: FlatGraph) -> None:
    for name, raw in level.leaves.items():
        inner = level.prefix and raw["type"] in ("Input", "Output")
        primitive = "Identity" if inner else raw["type"]
        flat_name = level.prefix + name
        if flat_name in flat.nodes:
            flat.report(f"node {flat_name!r}", None, "one node of this flat name", "two (nested and dotted names)")
        flat.nodes[flat_name] = FlatNode(flat_name, primitive, raw, name in level.invented)
    for graph in level.graphs.values():
        _collect(graph, flat)
    for source, target in sorted(level.edges):
        shown = f"edge {source!r} -> {target!r} in {level.title}"
        ends = [_resolve(level, source, "source", shown, flat), _resolve(level, target, "target", shown, flat)]
        if ends[0] is None or ends[1] is None:
            flat.severed.update(end for end in ends if end is not None)
            continue
        if not level.prefix and level.leaves.get(target, {}).get("type") == "Input":
            flat.report(shown, None, "no edge into an Input of the outermost graph", f"{target!r}, an Input")
            continue
        flat.edges.append((ends[0], ends[1]))


def _resolve(level: _Level, end: str, role: str, shown: str, flat: FlatGraph) -> str | None:
    """The flat name of the node at an edge end, or None after reporting a problem."""
    if end in level.leaves:
        return level.prefix + end
    if _local(level, end) in level.broken:
        return None
    if end in level.graphs:
        type, inner = _TERMINAL[role], level.graphs[end]
        terminals = inner.terminals(type)
        if len(terminals) == 1:
            return inner.prefix + terminals[0]
        if inner.broken:
            return None
        names = ", ".join(repr(f"{end}.{name}") for name in terminals) or "none"
        names = "; ".join([names, *explained(terminals, inner.edges)])
        flat.report(shown, None, f"graph {end!r} to have exactly one {type}, or the edge to name one", names)
        return None
    for name, graph in sorted(level.graphs.items(), key=lambda item: -len(item[0])):
        if end.startswith(f"{name}."):
            return _resolve(graph, end[len(name) + 1 :], role, shown, flat)
    flat.report(shown, None, f"{role} {end!r} to be a node ({nearest(end, level.names())})", "no such node")
    return None
