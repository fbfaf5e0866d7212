"""How each scheduled node is computed: decided once, at load, from the graph alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from neurocuda.compiler.certificate import Certificate, Integers, Proof
from neurocuda.compiler.schedule import Edge, Schedule, Stage
from neurocuda.errors import ArgumentError
from neurocuda.graph import SPIKING, WEIGHTED, Graph, Node, SoftReset, shape_text, soft_resets
from neurocuda.ops import int8

How = Literal["ordered", "library", "integer", "neuron", "recurrent", "soft reset", "direct"]

ORDERED_LIMIT = 2**20
"""Multiply-adds of one step of one sample up to which a layer is summed in the defined order."""

BY_LIBRARY = frozenset({"library", "integer"})
"""What the vendor's library sums."""

_LAST_FROM, _FEW_CHANNELS, _LAST_FROM_WITH_FEW = 64, 16, 257
"""Positions of the output from which the library's convolution on CPUs is fastest with the channels last in memory, and
from which it is with so few channels of the output."""


@dataclass(frozen=True)
class LoweredNode:
    """A node and how it is computed.

    ordered: a sum in the defined order, the same bits everywhere. library: the vendor's convolution or
    matrix product, whose last bit may depend on batch and chunk. integer: a product of whole numbers, by the library of
    CPUs or our kernel for GPUs, of a layer that is proved exact: the bits of any other way; where the device gains
    nothing by it, with gradients, or where an input is off its grid, it is as library. neuron: the fused sum and
    update. recurrent: half of a neuron and its weight, run as one operator. soft reset: part of an integrator, its
    threshold and the scale that takes spikes off it, run as one operator. direct: one elementwise operation, pool or
    copy.

    proof: of a layer or pool, what is proved of its sum.

    On the CPU, a library convolution lays out its frames with the channels last or not.
    """

    node: Node
    how: How
    why: str
    proof: Proof | None = None

    @property
    def exact(self) -> bool:
        """Whether any order of summation gives the same bits, as long as the promise on inputs is kept."""
        return self.proof is not None and self.proof.exact

    @property
    def integers(self) -> Integers | None:
        """As a product of whole numbers, where it may be one."""
        return None if self.proof is None else self.proof.integers

    @property
    def channels_last(self) -> bool:
        if self.how not in BY_LIBRARY or self.node.type != "Conv2d":
            return False
        channels, *space = self.node.output_shape
        return math.prod(space) >= (_LAST_FROM_WITH_FEW if channels <= _FEW_CHANNELS else _LAST_FROM)

    @property
    def laid_out(self) -> bool:
        """Whether on the CPU its weights, where they are constants, are laid out for the library once, and its frames
        with the channels last.
        """
        large = self.channels_last or self.node.output_shape[0] > _FEW_CHANNELS
        return self.how in BY_LIBRARY and self.node.type == "Conv2d" and large


@dataclass(frozen=True)
class LoweredStage:
    """A stage of the schedule; what is fused has the names of its parts.

    recurrence: the neuron and the weight of a cycle of the two. soft_reset: a cycle of these three; it runs as such
    where a gradient is needed, or more recorded than spikes and v.
    """

    nodes: tuple[LoweredNode, ...]
    cyclic: bool
    recurrence: tuple[str, str] | None = None
    soft_reset: SoftReset | None = None


@dataclass(frozen=True)
class LoweredSchedule:
    """A schedule with the computation of every node. Its text is a table, one line for each node.

    `spent` names, for each stage, the signals that nothing reads after it. `bytes` are the populations whose spikes may
    be uint8 between integer layers.
    """

    schedule: Schedule
    stages: tuple[LoweredStage, ...]
    spent: tuple[tuple[str, ...], ...]
    bytes: frozenset[str]

    @property
    def integer_layers(self) -> tuple[LoweredNode, ...]:
        return tuple(entry for stage in self.stages for entry in stage.nodes if entry.how == "integer")

    @property
    def of_library(self) -> tuple[str, ...]:
        """The layers that the vendor's library may compute, as floats or as whole numbers."""
        return tuple(entry.node.name for stage in self.stages for entry in stage.nodes if entry.how in BY_LIBRARY)

    @property
    def packed_layers(self) -> tuple[str, ...]:
        """The layers whose weights the compiled operators read packed."""
        entries = [entry for stage in self.stages for entry in stage.nodes if entry.node.type in WEIGHTED]
        return tuple(entry.node.name for entry in entries if entry.how in ("ordered", "recurrent"))

    @property
    def layered(self) -> bool:
        """Whether signals stand between the inputs and the outputs, which chunks of time keep small."""
        return sum(stage.nodes[0].node.type not in ("Input", "Output") for stage in self.stages) > 1

    @property
    def by_sample(self) -> bool:
        """Whether threads may go on with the samples of the layer before: there are convolutions, and no step waits for
        all samples of the one before.
        """
        entries = [entry for stage in self.stages for entry in stage.nodes]
        forward = all(stage.soft_reset or not stage.cyclic for stage in self.stages)
        return forward and any(entry.node.type in ("Conv1d", "Conv2d") for entry in entries)

    @property
    def by_library(self) -> bool:
        """Whether the vendor's library may compute a layer."""
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
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(7)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def lower(
    graph: Graph,
    schedule: Schedule,
    certificate: Certificate,
    force: Mapping[str, How] | None = None,
    ordered: bool = False,
) -> LoweredSchedule:
    """Choose how each node is computed. `force` overrides the choice for layers with weights, by name.

    ordered: all layers with weights are summed in the defined order, however large they are.
    """
    force = dict(force or {})
    wrong = sorted(name for name in force if name not in graph.nodes or graph.nodes[name].type not in WEIGHTED)
    if wrong or not set(force.values()) <= {"ordered", "library", "integer"}:
        found = ", ".join(map(repr, wrong)) or str(force)
        raise ArgumentError(f"force: expected layers with weights as 'ordered', 'library' or 'integer', found {found}")
    readers: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        readers[source].append(target)
    loops = {frozenset((loop.integrator, loop.threshold, loop.scale)): loop for loop in soft_resets(graph)}
    entries = {name: _node(node, certificate, force, ordered) for name, node in graph.nodes.items()}
    stages = tuple(_stage(graph, schedule, stage, readers, loops, entries) for stage in schedule.stages)
    return LoweredSchedule(schedule, stages, _spent(graph, schedule), _bytes(schedule, stages))


def _bytes(schedule: Schedule, stages: tuple[LoweredStage, ...]) -> frozenset[str]:
    """The populations that an integer layer reads, and nothing a step late or step by step."""
    integer_layers = {entry.node.name for stage in stages for entry in stage.nodes if entry.how == "integer"}
    stepped = {
        entry.node.name
        for stage in stages
        if stage.cyclic
        for entry in stage.nodes
        if stage.soft_reset is None or entry.node.name != stage.soft_reset.integrator
    }
    found: set[str] = set()
    for stage in stages:
        loop = stage.soft_reset
        name = loop.threshold if loop else stage.nodes[0].node.name
        if not loop and (stage.cyclic or stage.nodes[0].node.type not in SPIKING):
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
    readers: Mapping[str, list[str]],
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
    pair = _recurrence(graph, schedule, stage, nodes, readers)
    if pair is None:
        return LoweredStage(nodes, stage.cyclic)
    why = f"cycle of {pair[0]!r} and its weight {pair[1]!r}, ascending sum"
    return LoweredStage(tuple(LoweredNode(lowered.node, "recurrent", why) for lowered in nodes), True, pair)


def _node(node: Node, certificate: Certificate, force: Mapping[str, How], ordered: bool) -> LoweredNode:
    proof = certificate.of(node.name)
    if "tau" in node.parameters or "r" in node.parameters:
        return LoweredNode(node, "neuron", "sum and update in one pass")
    if node.type not in WEIGHTED:
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
        why = f"asked for; {work} multiply-adds a step"
    elif how == "library" and proof.exact:
        why = f"exact in any order; {why}"
    return LoweredNode(node, how, why, proof)


def _multiplies_bytes() -> bool:
    return int8.is_fast("cpu") or int8.is_fast("cuda")


def multiply_adds(node: Node) -> int:
    """Multiply-adds of a layer with weights for one step of one sample, computed densely."""
    weight = node.array("weight")
    fan_in = weight.shape[-1] if node.type in ("Affine", "Linear") else math.prod(weight.shape[1:])
    return math.prod(node.output_shape) * fan_in


def _recurrence(
    graph: Graph,
    schedule: Schedule,
    stage: Stage,
    nodes: tuple[LoweredNode, ...],
    readers: Mapping[str, list[str]],
) -> tuple[str, str] | None:
    """The neuron and weight of a cycle of just these two, each reaching the other once, spikes one step late."""
    if not stage.cyclic or len(stage.nodes) != 2:
        return None
    by_type = {("neuron" if graph.nodes[name].type in SPIKING else "weight"): name for name in stage.nodes}
    neuron, weight = by_type.get("neuron"), by_type.get("weight")
    if neuron is None or weight is None:
        return None
    matrix = graph.nodes[weight]
    lowered = {entry.node.name: entry for entry in nodes}[weight]
    if matrix.type not in ("Affine", "Linear") or matrix.array("weight").ndim != 2 or lowered.how != "ordered":
        return None
    into_weight = [(edge.source, edge.delayed) for edge in schedule.edges[weight]]
    returned = [(edge.source, edge.delayed) for edge in schedule.edges[neuron] if edge.source == weight]
    from_itself = any(edge.source == neuron for edge in schedule.edges[neuron])
    fused = (
        into_weight == [(neuron, True)]
        and readers[weight] == [neuron]
        and returned == [(weight, False)]
        and not from_itself
    )
    return (neuron, weight) if fused else None


def _fused_soft_reset(schedule: Schedule, stage: Stage, loops: Mapping[frozenset[str], SoftReset]) -> SoftReset | None:
    """The soft reset that is a cycle by itself, and whose spikes come back one step late.

    What comes back is the last term of the sum into the I, or one of two, whose order is of no account.
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
