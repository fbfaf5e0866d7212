"""Cache blocking: chooses the chunk length, and the consecutive stages that run tile by tile within the caches.

The signals between these stages then fit in the second-level cache, and a chunk takes less memory. A vendor library
layer with many weights per output runs over many frames at once, since each call reads all its weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch

from neurocuda.compiler.lowering import BY_LIBRARY, LoweredSchedule, LoweredStage
from neurocuda.graph import Node

CHUNK = 32
"""The least steps of a chunk whose length is not requested."""

AT_ONCE, ON_GPU = 2**19, 2**24
"""Values of the largest signal of a chunk, if that allows more steps: 2 MiB on a CPU, whose threads wait for each other
in each chunk, and 64 MiB on a GPU, which longer chunks fill better."""

PIECE = 2**19
"""Values of the largest signal of a tile for one thread, at least one step: 2 MiB, a second-level cache."""


@dataclass(frozen=True)
class Span:
    """Consecutive stages, by number, and the size of a tile: so many steps of so many samples.

    All tiles of some samples run before those of the next samples.
    """

    stages: range
    steps: int
    samples: int


def steps_of_chunk(lowered: LoweredSchedule, asked: int | None, steps: int, batch: int, device: torch.device) -> int:
    """The length of the chunks of a call of `steps` steps; the last chunk may be shorter."""
    if not lowered.layered:
        return steps
    if asked is not None or steps <= CHUNK:
        return asked or CHUNK
    widest = max(_values(stage) for stage in lowered.stages) * batch
    chunks = -(-steps // max(CHUNK, (AT_ONCE if device.type == "cpu" else ON_GPU) // max(1, widest)))
    return -(-steps // chunks)


def spans(
    lowered: LoweredSchedule,
    batch: int,
    steps: int,
    threads: int = 1,
    fused: Collection[int] = frozenset(),
    alone: bool = False,
) -> tuple[Span, ...]:
    """The stages of a chunk of `steps` steps of `batch` samples, span by span, for so many threads.

    fused: the numbers of the cycles that run as one operator, which carries its state from tile to tile. alone: the
    chunk returns outputs and no state, so tiles may have few samples; otherwise the states of the tiles would have to
    be concatenated, which takes their memory twice.
    """
    if not lowered.layered:
        return (Span(range(len(lowered.stages)), steps, batch),)
    own = {(stage.soft_reset.threshold, stage.soft_reset.scale) for stage in lowered.stages if stage.soft_reset}
    outer = [edge for edge in lowered.schedule.delayed if (edge.source, edge.target) not in own]
    late = {name for edge in outer for name in (edge.source, edge.target)}
    everything = Span(range(0), steps, batch)
    found: list[Span] = []
    for number, stage in enumerate(lowered.stages):
        step_by_step = stage.cyclic and number not in fused
        whole = step_by_step or any(entry.node.name in late for entry in stage.nodes)
        wanted = everything if whole else _piece(stage, batch, steps, threads, alone)
        joined = min(wanted, found[-1], key=_frames) if found else wanted
        if found and not _same(found[-1], everything) and not whole and _frames_wanted(stage) <= _frames(joined):
            found[-1] = replace(joined, stages=range(found[-1].stages.start, number + 1))
        elif _same(wanted, everything) or _frames_wanted(stage) > _frames(wanted):
            start = found.pop().stages.start if found and _same(found[-1], everything) else number
            found.append(replace(everything, stages=range(start, number + 1)))
        else:
            found.append(replace(wanted, stages=range(number, number + 1)))
    return tuple(found)


def _piece(stage: LoweredStage, batch: int, steps: int, threads: int, alone: bool) -> Span:
    """The tile of one stage: the steps for which no signal has more than PIECE values per thread, at least one.

    A tile has all samples; if alone, as many as have all their steps in it, at least one per thread. The tile is the
    chunk if no signal has more than twice PIECE values: slicing and concatenating would cost what tiling saves.
    """
    values, most = max(1, _values(stage)), PIECE * threads
    if values * batch * steps <= 2 * PIECE:
        return Span(range(0), steps, batch)
    samples, least = batch, 1
    if alone:
        wanted = _frames_wanted(stage)
        samples = min(batch, max(threads, most // (values * steps), math.ceil(wanted / steps)))
        least = math.ceil(wanted / samples)
    return Span(range(0), min(steps, max(1, least, most // (values * samples))), samples)


def _frames(span: Span) -> int:
    return span.steps * span.samples


def _same(piece: Span, other: Span) -> bool:
    return (piece.steps, piece.samples) == (other.steps, other.samples)


def _values(stage: LoweredStage) -> int:
    """Values of the largest signal of the stage, in a step of one sample."""
    return max(max(math.prod(n.input_shape), math.prod(n.output_shape)) for n in _nodes(stage))


def _frames_wanted(stage: LoweredStage) -> float:
    """Frames for which a vendor library layer has as many outputs as weights."""
    library = [entry.node for entry in stage.nodes if entry.how in BY_LIBRARY]
    return max((n.array("weight").size / max(1, math.prod(n.output_shape)) for n in library), default=0.0)


def _nodes(stage: LoweredStage) -> list[Node]:
    return [entry.node for entry in stage.nodes]
