"""Runs a lowered schedule over time: chunk by chunk, stage by stage, and tile by tile where that fits caches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from neurocuda.compiler.lowering import LoweredSchedule
from neurocuda.compiler.tiling import Span, spans
from neurocuda.graph import NEURONS, Graph
from neurocuda.runtime.cycles import fuses, is_enough, run_cycle, run_recurrence, run_soft_reset
from neurocuda.runtime.memory_layout import joined, joined_samples, laid_by_sample, some_steps
from neurocuda.runtime.nodes import Chunk, compute, signal_of
from neurocuda.runtime.operands import Tensors

_STATEFUL = NEURONS | {"Delay"}

Advance = Callable[[list[Tensor], list[Tensor], bool], tuple[list[Tensor], list[Tensor]]]
"""What a chunk gives and the state after it, of its inputs, the state before it, and whether it is the last."""


def run_chunks(
    inputs: list[Tensor], carry: list[Tensor], length: int, advance: Advance, operators: ModuleType
) -> tuple[list[Tensor], list[Tensor]]:
    """What `advance` gives over all steps, at least one, and the state after them, chunk by chunk of `length` steps."""
    steps = len(inputs[0])
    whole: list[Tensor] = []
    pieces: list[list[Tensor]] = []
    for start in range(0, steps, length):
        signals, carry = advance([x[start : start + length] for x in inputs], carry, start + length >= steps)
        if length >= steps:
            return signals, carry
        if torch.is_grad_enabled():
            pieces.append(signals)
            continue
        whole = whole or [operators.empty_float32((steps, *signal.shape[1:]), signal.device) for signal in signals]
        for all_steps, signal in zip(whole, signals, strict=True):
            all_steps[start : start + length] = signal
    return whole or [torch.cat(parts) for parts in zip(*pieces, strict=True)], carry


def run_steps(
    graph: Graph,
    lowered: LoweredSchedule,
    tensors: Tensors,
    entries: Collection[str],
    asked: Sequence[tuple[str, str]],
    ends: bool,
    given: list[Tensor],
) -> list[Tensor]:
    """Outputs, recordings and the state after a chunk, unless the sequence `ends` with it.

    entries: of the state. asked: node and quantity of each recording. given: the inputs, then the state before.
    """
    inputs = dict(zip(graph.inputs, [x.float() for x in given[: len(graph.inputs)]], strict=True))
    carry = dict(zip(entries, given[len(graph.inputs) :], strict=True))
    steps, batch = given[0].shape[:2]
    chunk = Chunk(steps, batch, carry, {key: [] for key in asked}, given[0].device, ends)
    run_chunk(lowered, tensors, inputs, chunk)
    records = [pieces[0] if len(pieces) == 1 else torch.cat(pieces) for pieces in chunk.records.values()]
    by_key = dict(zip(chunk.records, records, strict=True))
    return [
        *(chunk.signals[name].float() for name in graph.outputs),  # float32 under autocast too
        *(by_key[key].float() for key in asked),
        *(chunk.carry[name] for name in (() if ends else entries)),
    ]


def run_chunk(lowered: LoweredSchedule, tensors: Tensors, inputs: Mapping[str, Tensor], chunk: Chunk) -> None:
    """Run all stages over a chunk; leave the outputs in `chunk.signals` and the new state in `chunk.carry`."""
    if chunk.steps > 1 and not torch.compiler.is_compiling():
        _run_steady(lowered, tensors, inputs, chunk)
    # The pieces fit a CPU's caches; gradients keep every signal anyway.
    cut = chunk.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    chunk.by_sample = cut and lowered.by_sample and torch.get_num_threads() > 1
    pieces: Sequence[Span] = (Span(range(len(lowered.stages)), chunk.steps, chunk.batch),)
    fused = {n for n, stage in enumerate(lowered.stages) if stage.soft_reset and is_enough(stage.soft_reset, chunk)}
    if cut:
        alone = chunk.ends and not chunk.records
        pieces = spans(lowered, chunk.batch, chunk.steps, torch.get_num_threads(), fused, alone)
    for span in pieces:
        if span.samples < chunk.batch or span.steps < chunk.steps:
            _run_pieces(lowered, span, tensors, inputs, chunk)
        else:
            _run_stages(lowered, span.stages, tensors, inputs, chunk)
    chunk.carry.update(chunk.previous)


def _run_steady(lowered: LoweredSchedule, tensors: Tensors, inputs: Mapping[str, Tensor], chunk: Chunk) -> None:
    """Run once for all steps what comes of inputs that lie in memory once for all steps."""
    names = {name for name, x in inputs.items() if x.stride(0) == 0}
    if not names:
        return
    done = []
    for number, stage in enumerate(lowered.stages):
        node, edges = stage.nodes[0].node, lowered.schedule.edges[stage.nodes[0].node.name]
        follows = edges and all(edge.source in names and not edge.delayed for edge in edges)
        late = f"{node.name}.previous" in chunk.carry
        if node.name in names or (follows and not late and not stage.cyclic and node.type not in _STATEFUL):
            names.add(node.name)
            done.append(number)
    once = replace(chunk, steps=1, records={key: [] for key in chunk.records if key[0] in names}, signals={})
    _run_stages(lowered, done, tensors, {name: x[:1] for name, x in inputs.items()}, once, keep=True)
    for name, signal in once.signals.items():
        chunk.signals[name] = signal.expand(chunk.steps, *signal.shape[1:])
    for (name, quantity), (values,) in once.records.items():
        chunk.record(name, quantity, values.expand(chunk.steps, *values.shape[1:]))
    chunk.done = frozenset(done)


def _run_pieces(
    lowered: LoweredSchedule, span: Span, tensors: Tensors, inputs: Mapping[str, Tensor], chunk: Chunk
) -> None:
    """Run the stages of a span over one piece of the chunk after the other."""
    by_samples = span.samples < chunk.batch
    size, count = (span.samples, chunk.batch) if by_samples else (span.steps, chunk.steps)
    before = chunk.signals
    pieces: dict[str, list[Tensor]] = {}
    left: set[str] = set()
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        piece = _some_samples(chunk, part) if by_samples else _some_steps(chunk, part)
        given = {name: x[:, part] if by_samples else x[part] for name, x in inputs.items()}
        if by_samples and span.steps < chunk.steps:
            _run_pieces(lowered, replace(span, samples=piece.batch), tensors, given, piece)
        else:
            _run_stages(lowered, span.stages, tensors, given, piece)
        left = set(piece.signals)
        for name in left - set(before):
            pieces.setdefault(name, []).append(piece.signals[name])
    for name in set(before) - left:
        del chunk.signals[name]
    for name in sorted(pieces):
        values = pieces.pop(name)
        chunk.signals[name] = joined_samples(values, chunk.by_sample) if by_samples else joined(values)


def _some_samples(chunk: Chunk, part: slice) -> Chunk:
    """Samples of a chunk that leaves nothing but signals."""
    signals = {name: signal[:, part] for name, signal in chunk.signals.items()}
    carry = {name: tensor[part] for name, tensor in chunk.carry.items()}
    return replace(chunk, batch=part.stop - part.start, signals=signals, carry=carry)


def _some_steps(chunk: Chunk, part: slice) -> Chunk:
    signals = {name: some_steps(signal, part) for name, signal in chunk.signals.items()}
    ends = chunk.ends and part.stop == chunk.steps
    return replace(chunk, steps=part.stop - part.start, signals=signals, ends=ends)


def _run_stages(
    lowered: LoweredSchedule,
    numbers: Iterable[int],
    tensors: Tensors,
    inputs: Mapping[str, Tensor],
    chunk: Chunk,
    keep: bool = False,
) -> None:
    for number in numbers:
        stage = lowered.stages[number]
        if number in chunk.done:
            pass
        elif stage.recurrence is not None:
            run_recurrence(lowered, stage, stage.recurrence, tensors, chunk)
        elif stage.soft_reset is not None and fuses(lowered, stage.soft_reset, tensors, chunk):
            run_soft_reset(lowered, stage.soft_reset, tensors, chunk)
        elif stage.cyclic:
            run_cycle(lowered, stage, tensors, chunk)
        else:
            node = stage.nodes[0].node
            if node.type == "Input":
                x = inputs[node.name]
                chunk.signals[node.name] = laid_by_sample(x) if chunk.by_sample else x
                chunk.record(node.name, "input", inputs[node.name])
                chunk.record(node.name, "output", inputs[node.name])
            else:
                branches = [signal_of(edge, chunk) for edge in lowered.schedule.edges[node.name]]
                compute(stage.nodes[0], branches, tensors, chunk, chunk.steps)
        for name in (entry.node.name for entry in stage.nodes):
            if chunk.ends:
                for quantity in ("v", "i", "history"):  # which nothing else reads
                    chunk.carry.pop(f"{name}.{quantity}", None)
            elif f"{name}.previous" in chunk.carry and f"{name}.previous" not in chunk.previous:
                chunk.previous[f"{name}.previous"] = chunk.signals[name][-1].float()  # autocast makes it narrower
        for name in () if keep else lowered.spent[number]:
            chunk.signals.pop(name, None)  # the weight of a fused recurrence has none
