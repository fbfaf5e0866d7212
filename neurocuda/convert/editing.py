"""A graph while it is changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from neurocuda.graph import Graph, Node, Shape
from neurocuda.graph.fields import Value


class Editor:
    """The nodes of a graph, and for each what it takes (`into`) and what takes it (`out_of`), repeats included."""

    def __init__(self, graph: Graph) -> None:
        self._source = graph
        self.nodes = dict(graph.nodes)
        self.into: dict[str, list[str]] = {name: [] for name in graph.nodes}
        self.out_of: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, target in graph.edges:
            self.into[target].append(source)
            self.out_of[source].append(target)

    def graph(self) -> Graph:
        """The graph as it is now."""
        edges = tuple((source, target) for target, sources in self.into.items() for source in sources)
        return replace(self._source, nodes=self.nodes, edges=edges)

    def add(
        self, name: str, kind: str, parameters: Mapping[str, Value], sources: Sequence[str], shape: Shape, given: Shape
    ) -> str:
        """Add a node, and return its name: this one, with a number if it was taken."""
        name = fresh(name, self.nodes)
        self.nodes[name] = Node(name, kind, parameters, shape, given)
        self.into[name], self.out_of[name] = list(sources), []
        for source in sources:
            self.out_of[source].append(name)
        return name

    def bypass(self, name: str) -> None:
        """Take a node out: what it took goes to where it went."""
        self.replace_by(name, self.into[name])

    def replace_by(self, name: str, sources: Sequence[str]) -> None:
        """Take a node out: the sum of these others stands for it."""
        targets = self.out_of.pop(name)
        for source in self.into.pop(name):
            self.out_of[source] = [target for target in self.out_of[source] if target != name]
        del self.nodes[name]
        for target in dict.fromkeys(targets):
            self.into[target] = [n for own in self.into[target] for n in (sources if own == name else [own])]
        for source in sources:
            self.out_of[source].extend(targets)


def fresh(name: str, taken: Collection[str]) -> str:
    """This name, or with the first number that makes it a new one."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def prune(graph: Graph) -> Graph:
    """The same graph without what no Output depends on. Inputs stay."""
    sources = Editor(graph).into
    alive = set(graph.inputs)
    waiting = list(graph.outputs)
    while waiting:
        name = waiting.pop()
        if name not in alive:
            alive.add(name)
            waiting.extend(sources[name])
    nodes = {name: node for name, node in graph.nodes.items() if name in alive}
    return replace(graph, nodes=nodes, edges=tuple(edge for edge in graph.edges if edge[1] in alive))
