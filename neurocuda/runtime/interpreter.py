"""Interprets a lowered schedule over time: chunk by chunk, stage by stage, and tile by tile where that fits caches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from neurocuda.compiler.lowering import LoweredSchedule
from neurocuda.compiler.schedule import state_shapes
from neurocuda.compiler.tiling import Span, spans
from neurocuda.graph import Graph, Shape
from neurocuda.runtime.cycles import fuses, is_enough, run_cycle, run_recurrence, run_soft_reset
from neurocuda.runtime.layers import Chunk, evaluate, signal_of, to_sample_order
from neurocuda.runtime.memory_layout import cut_steps, join_samples, join_steps
from neurocuda.runtime.operands import Operands
from neurocuda.runtime.parameters import Field
from neurocuda.runtime.state import RunResult, State


@dataclass(frozen=True, eq=False)
class Plan:
    """A lowered graph, and the shapes of its state, [*shape] of one sample by entry."""

    graph: Graph
    lowered: LoweredSchedule
    entries: Mapping[str, Shape]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    has_int8: bool

    def with_state(self, tensors: list[Tensor]) -> list[Tensor]:
        """The inputs and the state. Rest is one zero, expanded: nothing is written into a state."""
        if len(tensors) > len(self.inputs) or not self.entries:
            return tensors
        zero, batch = torch.zeros((), device=tensors[0].device), tensors[0].shape[1]
        return [*tensors, *[zero.expand(batch, *shape) for shape in self.entries.values()]]

    def results_of_no_steps(self, returns: Returns, tensors: list[Tensor]) -> list[Tensor]:
        """Empty outputs and recordings, and the state as it was. tensors: the inputs and the state."""
        keys = [*((name, "output") for name in self.outputs), *returns.recordings]
        nodes = [(self.graph.nodes[name], quantity == "output") for name, quantity in keys]
        shapes = [node.output_shape if is_output else node.input_shape for node, is_output in nodes]
        empty = [tensors[0].new_empty(0, tensors[0].shape[1], *shape, dtype=torch.float32) for shape in shapes]
        return empty + ([] if returns.ends else [t.clone() for t in tensors[len(self.inputs) :]])

    def is_guardable(self, returns: Returns) -> bool:
        """Whether `CallCache.replay` can run such a call: one signal in, one out."""
        return not returns.recordings and len(self.inputs) == len(self.outputs) == 1

    def result(self, returns: Returns, results: list[Tensor]) -> RunResult:
        """The results of a call by name: outputs, recordings, state."""
        first, count = len(self.outputs), len(self.outputs) + len(returns.recordings)
        outputs = dict(zip(self.outputs, results, strict=False))
        recordings: dict[str, dict[str, Tensor]] = {}
        for (name, quantity), values in zip(returns.recordings, results[first:count], strict=True):
            recordings.setdefault(name, {})[quantity] = values
        state = {} if returns.ends else dict(zip(self.entries, results[count:], strict=True))
        return RunResult(outputs if first > 1 else results[0], State(state), recordings)


def plan_of(graph: Graph, lowered: LoweredSchedule, delay_counts: Mapping[str, Sequence[int]]) -> Plan:
    """The plan of a lowered graph. delay_counts: the distinct delays of each Delay, in time steps."""
    entries = state_shapes(graph, lowered.schedule, delay_counts)
    return Plan(graph, lowered, entries, graph.inputs, graph.outputs, bool(lowered.integer_layers))


@dataclass(frozen=True)
class Returns:
    """What a call returns beside its outputs: recordings (node, quantity), and the state unless the sequence ends."""

    recordings: tuple[Field, ...] = ()
    ends: bool = False


RunChunk = Callable[[list[Tensor], bool], list[Tensor]]
"""Runs a chunk: (its inputs and the state before it, whether the sequence ends with it) to its results."""


def run_chunks(
    plan: Plan, returns: Returns, tensors: list[Tensor], length: int, run: RunChunk, operators: ModuleType
) -> list[Tensor]:
    """Runs more than `length` steps, chunk by chunk of that length; returns signals, then the state."""
    inputs, carry = tensors[: len(plan.inputs)], tensors[len(plan.inputs) :]
    steps, count = len(inputs[0]), len(plan.outputs) + len(returns.recordings)
    chunks = []
    outputs: list[Tensor] = []
    for start in range(0, steps, length):
        last = start + length >= steps
        results = run([*(x[start : start + length] for x in inputs), *carry], returns.ends and last)
        carry = results[count:]
        if torch.is_grad_enabled():
            chunks.append(results[:count])
            continue
        outputs = outputs or [operators.empty_float32((steps, *t.shape[1:]), t.device) for t in results[:count]]
        for whole, signal in zip(outputs, results[:count], strict=True):
            whole[start : start + length] = signal
    return [*(outputs or [torch.cat(parts) for parts in zip(*chunks, strict=True)]), *carry]


def run_chunk(plan: Plan, operands: Operands, returns: Returns, tensors: list[Tensor]) -> list[Tensor]:
    """Runs one chunk, from its inputs and the state before it, to outputs, recordings and the state after it."""
    inputs = {name: x.float() for name, x in zip(plan.inputs, tensors, strict=False)}
    carry = dict(zip(plan.entries, tensors[len(plan.inputs) :], strict=True))
    steps, batch = tensors[0].shape[:2]
    chunk = Chunk(steps, batch, carry, {key: [] for key in returns.recordings}, tensors[0].device, returns.ends)
    _run_spans(plan.lowered, operands, inputs, chunk)
    results = [chunk.signals[name].float() for name in plan.outputs]  # float32 under autocast too
    for key in returns.recordings:
        tiles = chunk.records[key]
        results.append((tiles[0] if len(tiles) == 1 else torch.cat(tiles)).float())
    return results if returns.ends else [*results, *map(chunk.carry.__getitem__, plan.entries)]


def _run_spans(lowered: LoweredSchedule, operands: Operands, inputs: Mapping[str, Tensor], chunk: Chunk) -> None:
    """Runs all stages over a chunk; leaves the outputs in `chunk.signals` and the new state in `chunk.carry`."""
    compiling = torch.compiler.is_compiling()
    if chunk.steps > 1 and not compiling:
        _run_constant(lowered, operands, inputs, chunk)
    # Tiles fit a CPU's caches; gradients keep every signal anyway.
    tiled = chunk.device.type == "cpu" and not torch.is_grad_enabled() and not compiling
    chunk.by_sample = tiled and lowered.by_sample and torch.get_num_threads() > 1
    tiles: Sequence[Span] = (Span(range(len(lowered.stages)), chunk.steps, chunk.batch),)
    if tiled:
        alone = chunk.ends and not chunk.records
        fused = set()
        for number, stage in enumerate(lowered.stages):
            if stage.soft_reset and is_enough(stage.soft_reset, chunk):
                fused.add(number)
        tiles = spans(lowered, chunk.batch, chunk.steps, torch.get_num_threads(), fused, alone)
    for span in tiles:
        if span.samples < chunk.batch or span.steps < chunk.steps:
            _run_tiles(lowered, span, operands, inputs, chunk)
        else:
            _run_stages(lowered, span.stages, operands, inputs, chunk)
    chunk.carry.update(chunk.previous)


def _run_constant(lowered: LoweredSchedule, operands: Operands, inputs: Mapping[str, Tensor], chunk: Chunk) -> None:
    """Runs once for all steps what depends on inputs that are stored once for all steps (stride 0)."""
    names = set()
    for name, x in inputs.items():
        if x.stride(0) == 0:
            names.add(name)
    if not names:
        return
    done = []
    for number, stage in enumerate(lowered.stages):
        node, edges = stage.nodes[0].node, lowered.schedule.edges[stage.nodes[0].node.name]
        follows = edges and all(edge.source in names and not edge.delayed for edge in edges)
        late = f"{node.name}.previous" in chunk.carry
        if node.name in names or (follows and not late and not stage.cyclic and not node.primitive.has_state):
            names.add(node.name)
            done.append(number)
    once = replace(chunk, steps=1, records={key: [] for key in chunk.records if key[0] in names}, signals={})
    _run_stages(lowered, done, operands, {name: x[:1] for name, x in inputs.items()}, once, keep=True)
    for name, signal in once.signals.items():
        chunk.signals[name] = signal.expand(chunk.steps, *signal.shape[1:])
    for (name, quantity), (values,) in once.records.items():
        chunk.record(name, quantity, values.expand(chunk.steps, *values.shape[1:]))
    chunk.done = frozenset(done)


def _run_tiles(
    lowered: LoweredSchedule, span: Span, operands: Operands, inputs: Mapping[str, Tensor], chunk: Chunk
) -> None:
    """Runs the stages of a span over one tile of the chunk after the other."""
    by_samples = span.samples < chunk.batch
    size, count = (span.samples, chunk.batch) if by_samples else (span.steps, chunk.steps)
    before = chunk.signals
    tiles: dict[str, list[Tensor]] = {}
    left: set[str] = set()
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        tile = _cut_samples(chunk, part) if by_samples else _cut_steps(chunk, part)
        tile_inputs = {name: x[:, part] if by_samples else x[part] for name, x in inputs.items()}
        if by_samples and span.steps < chunk.steps:
            _run_tiles(lowered, replace(span, samples=tile.batch), operands, tile_inputs, tile)
        else:
            _run_stages(lowered, span.stages, operands, tile_inputs, tile)
        left = set(tile.signals)
        for name in left - set(before):
            tiles.setdefault(name, []).append(tile.signals[name])
    for name in set(before) - left:
        del chunk.signals[name]
    for name in sorted(tiles):
        signals = tiles.pop(name)
        chunk.signals[name] = join_samples(signals, chunk.by_sample) if by_samples else join_steps(signals)


def _cut_samples(chunk: Chunk, part: slice) -> Chunk:
    """Some samples of a chunk that returns neither state nor recordings."""
    signals = {name: signal[:, part] for name, signal in chunk.signals.items()}
    carry = {name: tensor[part] for name, tensor in chunk.carry.items()}
    return replace(chunk, batch=part.stop - part.start, signals=signals, carry=carry)


def _cut_steps(chunk: Chunk, part: slice) -> Chunk:
    signals = {name: cut_steps(signal, part) for name, signal in chunk.signals.items()}
    ends = chunk.ends and part.stop == chunk.steps
    return replace(chunk, steps=part.stop - part.start, signals=signals, ends=ends)


def _run_stages(
    lowered: LoweredSchedule,
    numbers: Iterable[int],
    operands: Operands,
    inputs: Mapping[str, Tensor],
    chunk: Chunk,
    keep: bool = False,
) -> None:
    for number in numbers:
        stage = lowered.stages[number]
        if number in chunk.done:
            pass
        elif stage.recurrence is not None:
            run_recurrence(lowered, stage, stage.recurrence, operands, chunk)
        elif stage.soft_reset is not None and fuses(lowered, stage.soft_reset, operands, chunk):
            run_soft_reset(lowered, stage.soft_reset, operands, chunk)
        elif stage.cyclic:
            run_cycle(lowered, stage, operands, chunk)
        else:
            name = stage.nodes[0].node.name
            if name in inputs:
                x = inputs[name]
                chunk.signals[name] = to_sample_order(x) if chunk.by_sample else x
                chunk.record(name, "input", x)
                chunk.record(name, "output", x)
            else:
                branches = []
                for edge in lowered.schedule.edges[name]:  # no comprehension: it is a call before Python 3.12
                    branches += [signal_of(edge, chunk) if edge.delayed else chunk.signals[edge.source]]
                evaluate(stage.nodes[0], branches, operands, chunk, chunk.steps)
        for entry in stage.nodes:
            name = entry.node.name
            if chunk.ends:
                for quantity in ("v", "i", "history"):  # not read again
                    chunk.carry.pop(f"{name}.{quantity}", None)
            elif f"{name}.previous" in chunk.carry and f"{name}.previous" not in chunk.previous:
                chunk.previous[f"{name}.previous"] = chunk.signals[name][-1].float()  # autocast makes it narrower
        for name in () if keep else lowered.spent[number]:
            chunk.signals.pop(name, None)  # the weight of a fused recurrence has none
