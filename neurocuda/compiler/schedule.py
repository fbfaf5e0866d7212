"""The order of the nodes, and which edges are delayed: Kahn's algorithm over strongly connected components."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from neurocuda.discretization.coefficients import delay_steps
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import AlgebraicLoopError, Problem, raise_problems
from neurocuda.graph import Graph, Primitive

Pair = tuple[str, str]


@dataclass(frozen=True)
class Edge:
    """An edge of the schedule; a delayed one carries its source's output of the step before, zero at the first step."""

    source: str
    target: str
    delayed: bool


@dataclass(frozen=True)
class Stage:
    """Nodes that run together: a single one over a chunk of time steps, or a cycle step by step, in order."""

    nodes: tuple[str, ...]
    cyclic: bool


@dataclass(frozen=True)
class Schedule:
    """The order in which the nodes of a graph run in each time step (Kahn's algorithm, cycles as one stage).

    Args:
        stages: In order.
        edges: Into each node, in the order of its sum.
        breaking_delays: The Delay nodes that break a cycle: they output the value of a step before they read its input.

    Example:
        >>> import neurocuda
        >>> net = neurocuda.load("examples/digits/digits.nir")
        >>> [stage.nodes for stage in net.schedule.schedule.stages][:2]
        [('input',), ('conv1',)]
    """

    stages: tuple[Stage, ...]
    edges: dict[str, tuple[Edge, ...]]
    breaking_delays: frozenset[str]

    @property
    def delayed(self) -> tuple[Edge, ...]:
        """The delayed edges, in order of target and source."""
        return tuple(edge for into in self.edges.values() for edge in into if edge.delayed)


def schedule(graph: Graph, d: Discretization) -> Schedule:
    """The schedule of a graph. Raises `AlgebraicLoopError` naming the nodes of a cycle without state."""
    pairs = sorted(set(graph.edges))
    late = {(a, b) for a, b in pairs if d.output_delay and graph.nodes[a].primitive.emits_spikes}
    cycles = _cycles(graph.nodes, pairs)
    breaking = frozenset(
        name
        for component in cycles
        for name in component
        if graph.nodes[name].primitive.is_delay and int(delay_steps(graph.nodes[name], d).min()) >= 1
    )
    cut = {(a, b) for a, b in pairs if b in breaking}
    for delays in _passes(d):
        prompt = [pair for pair in pairs if pair not in late and pair not in cut]
        home = _homes(_cycles(graph.nodes, prompt))
        late.update(
            (a, b)
            for a, b in prompt
            if a in home and home[a] is home.get(b) and delays(graph.nodes[a].primitive, graph.nodes[b].primitive)
        )
    prompt = [pair for pair in pairs if pair not in late and pair not in cut]
    _refuse_loops(graph, _cycles(graph.nodes, prompt))

    stages = tuple(
        Stage(tuple(in_order(group, prompt)) if group in cycles else tuple(group), group in cycles)
        for group in _stage_order(graph, _homes(cycles), pairs)
    )
    edges = {b: tuple(Edge(a, b, (a, b) in late) for a in sources) for b, sources in graph.sources.items()}
    return Schedule(stages, edges, breaking)


def _passes(d: Discretization) -> tuple[Callable[[Primitive, Primitive], bool], ...]:
    """For each pass after the first, whether an edge of a cycle is delayed, by the primitives of its ends."""
    if d.feedback == "weight-output":
        return (lambda source, target: target.is_neuron,)
    return (lambda source, target: source.emits_spikes, lambda source, target: source.has_state)


def _cycles(nodes: Collection[str], pairs: Iterable[Pair]) -> list[frozenset[str]]:
    """The strongly connected components with a cycle, in order of their first name."""
    pairs = list(pairs)
    if len(in_order(nodes, pairs)) == len(nodes):
        return []
    import networkx  # only for graphs with cycles: 0.2 s

    graph = networkx.DiGraph(pairs)
    graph.add_nodes_from(nodes)
    loops = {a for a, b in pairs if a == b}
    components = [frozenset(component) for component in networkx.strongly_connected_components(graph)]
    return sorted((c for c in components if len(c) > 1 or c & loops), key=min)


def _homes(components: list[frozenset[str]]) -> dict[str, frozenset[str]]:
    """The component of each node that is in one."""
    return {name: component for component in components for name in component}


def _refuse_loops(graph: Graph, loops: list[frozenset[str]]) -> None:
    problems = []
    for loop in loops:
        names = ", ".join(f"{name!r} ({graph.nodes[name].type})" for name in sorted(loop))
        expected = "a neuron, or a delay of at least one step in every element, in each cycle"
        problems.append(Problem(f"cycle of nodes {names}", None, expected, "a cycle without", AlgebraicLoopError))
    raise_problems(problems, graph.source)


def _stage_order(graph: Graph, home: Mapping[str, frozenset[str]], pairs: list[Pair]) -> Iterable[frozenset[str]]:
    """The components in topological order; of those that are ready, the one with the first name."""
    groups = {name: home.get(name, frozenset({name})) for name in graph.nodes}
    first = {group: min(group) for group in groups.values()}
    between = {(first[groups[a]], first[groups[b]]) for a, b in pairs if groups[a] != groups[b]}
    by_first = {name: group for group, name in first.items()}
    return [by_first[name] for name in in_order(by_first, sorted(between))]


def in_order(names: Iterable[str], pairs: Iterable[Pair]) -> list[str]:
    """Topological order by Kahn's algorithm; of the nodes that are ready, the first by name."""
    missing = dict.fromkeys(names, 0)
    targets: dict[str, list[str]] = {name: [] for name in missing}
    for source, target in pairs:
        if source in missing and target in missing:
            missing[target] += 1
            targets[source].append(target)
    ready = [name for name, count in missing.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        name = heapq.heappop(ready)
        order.append(name)
        for target in targets[name]:
            missing[target] -= 1
            if missing[target] == 0:
                heapq.heappush(ready, target)
    return order


def state_shapes(graph: Graph, stages: Schedule, delays: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The entries of the state, in order, and their shapes for one sample; `delays` are the steps of Delays, rising."""
    shapes: dict[str, tuple[int, ...]] = {}
    late_sources = {edge.source for edge in stages.delayed}
    for name, node in graph.nodes.items():
        if node.primitive.is_neuron:
            shapes[f"{name}.v"] = node.input_shape
        if "tau_syn" in node.parameters:
            shapes[f"{name}.i"] = node.input_shape
        if node.primitive.is_delay:
            shapes[f"{name}.history"] = (delays[name][-1], *node.input_shape)
        if name in late_sources:
            shapes[f"{name}.previous"] = node.output_shape
    return shapes
