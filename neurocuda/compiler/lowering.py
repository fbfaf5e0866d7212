"""Lowering: chooses the implementation of each scheduled node, once, at load, from the graph alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from neurocuda.compiler.certificate import Certificate, Integers, Proof
from neurocuda.compiler.schedule import Edge, Schedule, Stage
from neurocuda.errors import ArgumentError
from neurocuda.graph import Graph, Node, SoftReset, shape_text, soft_resets, table
from neurocuda.ops import int8

How = Literal["ordered", "library", "integer", "neuron", "recurrent", "soft reset", "direct"]

ORDERED_LIMIT = 2**20
"""Multiply-adds of one step of one sample up to which a layer is summed in the defined order."""

BY_LIBRARY = frozenset({"library", "integer"})
"""The implementations that call the vendor library."""

_LAST_FROM, _FEW_CHANNELS, _LAST_FROM_WITH_FEW = 64, 16, 257
"""Output positions from which the vendor library's convolution on CPUs is fastest with the channels last in memory; the
last number is for at most _FEW_CHANNELS output channels."""


@dataclass(frozen=True)
class LoweredNode:
    """A node and its implementation, `how`.

    ordered: a sum in the defined order, the same bits everywhere. library: the vendor library's convolution or matrix
    product, whose last bit may depend on batch and chunk. integer: an int8 layer, by the vendor library on CPUs and our
    kernel on GPUs, whose sum is proved exact, so that it has the bits of every other implementation; with gradients,
    with an off-grid input, or on a device without int8 units, it runs as library. neuron: the fused sum and update.
    recurrent: a neuron and its weight in a cycle, run as one operator. soft reset: an integrator, its threshold and the
    scale of its feedback, run as one operator. direct: one elementwise operation, pool or copy.

    why: the reason of the choice. proof: of a layer or pool.
    """

    node: Node
    how: How
    why: str
    proof: Proof | None = None

    @property
    def exact(self) -> bool:
        """Whether the sum is proved exact in any order, for inputs on their grids."""
        return self.proof is not None and self.proof.exact

    @property
    def integers(self) -> Integers | None:
        """The int8 layer that it may run as."""
        return None if self.proof is None else self.proof.integers

    @property
    def channels_last(self) -> bool:
        if self.how not in BY_LIBRARY or self.node.primitive.spatial_axes != 2:
            return False
        channels, *space = self.node.output_shape
        return math.prod(space) >= (_LAST_FROM_WITH_FEW if channels <= _FEW_CHANNELS else _LAST_FROM)

    @property
    def laid_out(self) -> bool:
        """Whether on the CPU constant weights are prepacked, and the frames stored with the channels last."""
        large = self.channels_last or self.node.output_shape[0] > _FEW_CHANNELS
        return self.how in BY_LIBRARY and self.node.primitive.spatial_axes == 2 and large


@dataclass(frozen=True)
class LoweredStage:
    """A stage of the schedule, and the nodes that run as one fused operator.

    recurrence: the neuron and the weight of a cycle of the two. soft_reset: the three nodes of a soft reset; they run
    one by one where a gradient is needed, or where more than spikes and v is recorded. largest: elements of its
    largest signal, in a step of one sample. frames_wanted: frames for which a vendor library layer has as many outputs
    as weights.
    """

    nodes: tuple[LoweredNode, ...]
    cyclic: bool
    recurrence: tuple[str, str] | None = None
    soft_reset: SoftReset | None = None
    names: frozenset[str] = field(init=False)
    largest: int = field(init=False)
    frames_wanted: float = field(init=False)

    def __post_init__(self) -> None:
        nodes = [entry.node for entry in self.nodes]
        largest = max(max(math.prod(node.input_shape), math.prod(node.output_shape)) for node in nodes)
        weights = [
            node.array("weight").size / max(1, math.prod(node.output_shape))
            for node, entry in zip(nodes, self.nodes, strict=True)
            if entry.how in BY_LIBRARY
        ]
        object.__setattr__(self, "names", frozenset(node.name for node in nodes))
        object.__setattr__(self, "largest", largest)
        object.__setattr__(self, "frames_wanted", max(weights, default=0.0))


@dataclass(frozen=True)
class LoweredSchedule:
    """A schedule with the implementation of every node. Its text is a table, one line for each node.

    spent: for each stage, the signals that no later stage reads. bytes: the populations whose spikes may be uint8, as
    int8 layers read them. layered: there are signals between the inputs and the outputs, which chunks of time steps
    bound. by_sample: signals are stored sample by sample, so that a thread continues with the samples of the previous
    layer; there must be convolutions, and no cycle that runs step by step, which waits for all samples. late: the ends
    of delayed edges, but for those inside a fused soft reset.
    """

    schedule: Schedule
    stages: tuple[LoweredStage, ...]
    spent: tuple[tuple[str, ...], ...]
    bytes: frozenset[str]
    layered: bool = field(init=False)
    by_sample: bool = field(init=False)
    late: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        inner = sum(not stage.nodes[0].node.primitive.is_terminal for stage in self.stages)
        forward = all(stage.soft_reset or not stage.cyclic for stage in self.stages)
        convolves = any(entry.node.primitive.is_convolution for stage in self.stages for entry in stage.nodes)
        loops = {(stage.soft_reset.threshold, stage.soft_reset.scale) for stage in self.stages if stage.soft_reset}
        late = [edge for edge in self.schedule.delayed if (edge.source, edge.target) not in loops]
        object.__setattr__(self, "layered", inner > 1)
        object.__setattr__(self, "by_sample", forward and convolves)
        object.__setattr__(self, "late", frozenset(name for edge in late for name in (edge.source, edge.target)))

    @property
    def nodes(self) -> tuple[LoweredNode, ...]:
        """The nodes in the order in which they run."""
        return tuple(entry for stage in self.stages for entry in stage.nodes)

    @property
    def integer_layers(self) -> tuple[LoweredNode, ...]:
        return tuple(entry for entry in self.nodes if entry.how == "integer")

    @property
    def of_library(self) -> tuple[str, ...]:
        """The layers that the vendor library may compute, in float32 or as int8 layers."""
        return tuple(entry.node.name for entry in self.nodes if entry.how in BY_LIBRARY)

    @property
    def packed_layers(self) -> tuple[str, ...]:
        """The layers whose weights the native operators read prepacked."""
        layers = [entry for entry in self.nodes if entry.node.primitive.is_weighted]
        return tuple(entry.node.name for entry in layers if entry.how in ("ordered", "recurrent"))

    @property
    def by_library(self) -> bool:
        """Whether the vendor library may compute a layer."""
        return bool(self.of_library)

    def rows(self) -> list[tuple[str, ...]]:
        """One row for each node, under a first row of titles."""
        rows: list[tuple[str, ...]] = [("stage", "node", "type", "shape", "computed", "sum of (* a step late)", "why")]
        for number, stage in enumerate(self.stages):
            label = f"{number}{' cycle' if stage.cyclic else ''}"
            for lowered in stage.nodes:
                node = lowered.node
                sources = " + ".join(
                    edge.source + ("*" if edge.delayed else "") for edge in self.schedule.edges[node.name]
                )
                shape = shape_text(node.output_shape)
                rows.append((label, node.name, node.type, shape, lowered.how, sources or "zero", lowered.why))
        return rows

    def __str__(self) -> str:
        return "\n".join(table(self.rows()))


def lower(
    graph: Graph,
    schedule: Schedule,
    certificate: Certificate,
    force: Mapping[str, How] | None = None,
    ordered: bool = False,
) -> LoweredSchedule:
    """Choose the implementation of each node.

    force: "ordered", "library" or "integer" for layers with weights, by name. ordered: all layers with weights are
    summed in the defined order, however large they are. Raises `ArgumentError`.
    """
    force = dict(force or {})
    wrong = sorted(name for name in force if name not in graph.nodes or not graph.nodes[name].primitive.is_weighted)
    if wrong or not set(force.values()) <= {"ordered", "library", "integer"}:
        found = ", ".join(map(repr, wrong)) or str(force)
        raise ArgumentError(f"force: expected layers with weights as 'ordered', 'library' or 'integer', found {found}")
    loops = {frozenset((loop.integrator, loop.threshold, loop.scale)): loop for loop in soft_resets(graph)}
    entries = {name: _node(node, certificate, force, ordered) for name, node in graph.nodes.items()}
    stages = tuple(_stage(graph, schedule, stage, loops, entries) for stage in schedule.stages)
    return LoweredSchedule(schedule, stages, _spent(graph, schedule), _bytes(schedule, stages))


def _bytes(schedule: Schedule, stages: tuple[LoweredStage, ...]) -> frozenset[str]:
    """The populations whose spikes an int8 layer reads, and no delayed edge or cycle that runs step by step."""
    integer_layers = {entry.node.name for stage in stages for entry in stage.nodes if entry.how == "integer"}
    loops = {stage.soft_reset.integrator for stage in stages if stage.soft_reset}
    stepped = {name for stage in stages if stage.cyclic for name in stage.names} - loops
    found: set[str] = set()
    for stage in stages:
        loop = stage.soft_reset
        name = loop.threshold if loop else stage.nodes[0].node.name
        if not loop and (stage.cyclic or not stage.nodes[0].node.primitive.is_spiking):
            continue
        readers = {
            (edge.target, edge.delayed) for edges in schedule.edges.values() for edge in edges if edge.source == name
        }
        readers -= {(loop.scale, True)} if loop else set()
        late = any(delayed or target in stepped for target, delayed in readers)
        if not late and any(target in integer_layers for target, _ in readers):
            found.add(name)
    return frozenset(found)


def _spent(graph: Graph, schedule: Schedule) -> tuple[tuple[str, ...], ...]:
    """For each stage, the signals that no later stage reads and that are not outputs."""
    last = {}
    for number, stage in enumerate(schedule.stages):
        for name in stage.nodes:
            last[name] = number
            last.update({edge.source: max(number, last.get(edge.source, 0)) for edge in schedule.edges[name]})
    spent: list[list[str]] = [[] for _ in schedule.stages]
    for name in set(last) - set(graph.outputs):
        spent[last[name]].append(name)
    return tuple(tuple(sorted(names)) for names in spent)


def _stage(
    graph: Graph,
    schedule: Schedule,
    stage: Stage,
    loops: Mapping[frozenset[str], SoftReset],
    entries: Mapping[str, LoweredNode],
) -> LoweredStage:
    nodes = tuple(entries[name] for name in stage.nodes)
    loop = _fused_soft_reset(schedule, stage, loops)
    if loop is not None:
        why = f"soft reset of {loop.integrator!r}, sum and update in one pass"
        return LoweredStage(
            tuple(LoweredNode(graph.nodes[name], "soft reset", why) for name in stage.nodes), True, None, loop
        )
    pair = _recurrence(graph, schedule, stage, entries)
    if pair is None:
        return LoweredStage(nodes, stage.cyclic)
    why = f"cycle of {pair[0]!r} and its weight {pair[1]!r}, ascending sum"
    return LoweredStage(tuple(LoweredNode(lowered.node, "recurrent", why) for lowered in nodes), True, pair)


def _node(node: Node, certificate: Certificate, force: Mapping[str, How], ordered: bool) -> LoweredNode:
    proof = certificate.of(node.name)
    if node.primitive.is_neuron:
        return LoweredNode(node, "neuron", "sum and update in one pass")
    if not node.primitive.is_weighted:
        return LoweredNode(node, "direct", "", proof)
    assert proof is not None
    work = multiply_adds(node)
    small = work <= ORDERED_LIMIT
    choice: How = "ordered" if small or ordered else "integer" if proof.integers and _multiplies_bytes() else "library"
    how = force.get(node.name, choice)
    if how == "integer" and proof.integers is None:
        found = proof.reason or "more bits"
        raise ArgumentError(f"force: expected 8-bit weights and signals for node {node.name!r}, found {found}")
    why = f"{work} multiply-adds a step, {'at most' if small else 'more than'} {ORDERED_LIMIT}"
    if how == "integer":
        why = f"8-bit weights and signals, exact in any order; {work} multiply-adds a step"
    elif node.name in force:
        why = "forced"
    elif ordered:
        why = f"requested; {work} multiply-adds a step"
    elif how == "library" and proof.exact:
        why = f"exact in any order; {why}"
    return LoweredNode(node, how, why, proof)


def _multiplies_bytes() -> bool:
    return int8.is_fast("cpu") or int8.is_fast("cuda")


def multiply_adds(node: Node) -> int:
    """Multiply-adds of a layer with weights for one step of one sample, computed densely."""
    weight = node.array("weight")
    fan_in = weight.shape[-1] if node.primitive.is_matrix else math.prod(weight.shape[1:])
    return math.prod(node.output_shape) * fan_in


def _recurrence(
    graph: Graph, schedule: Schedule, stage: Stage, entries: Mapping[str, LoweredNode]
) -> tuple[str, str] | None:
    """The neuron and weight of a cycle of just these two, each reaching the other once, spikes one step late."""
    neurons = [name for name in stage.nodes if graph.nodes[name].primitive.is_spiking]
    if not stage.cyclic or len(stage.nodes) != 2 or len(neurons) != 1:
        return None
    neuron, weight = sorted(stage.nodes, key=neurons.__contains__, reverse=True)
    matrix = graph.nodes[weight]
    fused = (
        matrix.primitive.is_matrix
        and matrix.array("weight").ndim == 2
        and entries[weight].how == "ordered"
        and graph.targets[weight] == (neuron,)
        and schedule.edges[weight] == (Edge(neuron, weight, True),)
        and [edge for edge in schedule.edges[neuron] if edge.source in stage.nodes] == [Edge(weight, neuron, False)]
    )
    return (neuron, weight) if fused else None


def _fused_soft_reset(schedule: Schedule, stage: Stage, loops: Mapping[frozenset[str], SoftReset]) -> SoftReset | None:
    """The soft reset that is the entire cycle, and whose feedback is delayed by one step.

    The feedback must be the last term of the sum into the I, or one of two terms, whose order does not matter.
    """
    loop = loops.get(frozenset(stage.nodes))
    if loop is None:
        return None
    terms = schedule.edges[loop.integrator]
    fused = (
        schedule.edges[loop.threshold] == (Edge(loop.integrator, loop.threshold, False),)
        and [edge for edge in schedule.delayed if edge.source == loop.threshold]
        == [Edge(loop.threshold, loop.scale, True)]
        and Edge(loop.scale, loop.integrator, False) in (terms[-1:] if len(terms) > 2 else terms)
    )
    return loop if fused else None
