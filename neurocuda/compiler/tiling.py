"""Cache blocking: chooses the chunk length, and the consecutive stages that run tile by tile within the caches.

The signals between these stages then fit in the second-level cache, and a chunk takes less memory. A vendor library
layer with many weights per output runs over many frames at once, since each call reads all its weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from operator import attrgetter

import torch

from neurocuda.compiler.lowering import LoweredSchedule, LoweredStage

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
    frames: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", self.steps * self.samples)


def steps_of_chunk(
    lowered: LoweredSchedule, requested: int | None, steps: int, batch: int, device: torch.device
) -> int:
    """The length of the chunks of a call of `steps` steps; the last chunk may be shorter."""
    if not lowered.layered:
        return steps
    if requested is not None or steps <= CHUNK:
        return requested or CHUNK
    widest: int = batch * max(map(attrgetter("largest"), lowered.stages))
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
    everything = Span(range(0), steps, batch)
    found: list[Span] = []
    for number, stage in enumerate(lowered.stages):
        untiled = (stage.cyclic and number not in fused) or not lowered.late.isdisjoint(stage.names)
        tile = everything if untiled else _piece(stage, batch, steps, threads, alone)
        last = found[-1] if found else tile
        joined = tile if tile.frames <= last.frames else last
        after_tiles = found and last.frames < everything.frames
        if after_tiles and not untiled and stage.frames_wanted <= joined.frames:
            found[-1] = replace(joined, stages=range(last.stages.start, number + 1))
        elif tile.frames == everything.frames or stage.frames_wanted > tile.frames:
            start = found.pop().stages.start if found and not after_tiles else number
            found.append(replace(everything, stages=range(start, number + 1)))
        else:
            found.append(replace(tile, stages=range(number, number + 1)))
    return tuple(found)


def _piece(stage: LoweredStage, batch: int, steps: int, threads: int, alone: bool) -> Span:
    """The tile of one stage: the steps for which no signal has more than PIECE values per thread, at least one.

    A tile has all samples; if alone, as many as have all their steps in it, at least one per thread. The tile is the
    chunk if no signal has more than twice PIECE values: slicing and concatenating would cost what tiling saves.
    """
    values, most = max(1, stage.largest), PIECE * threads
    if values * batch * steps <= 2 * PIECE:
        return Span(range(0), steps, batch)
    samples, least = batch, 1
    if alone:
        samples = min(batch, max(threads, most // (values * steps), math.ceil(stage.frames_wanted / steps)))
        least = math.ceil(stage.frames_wanted / samples)
    return Span(range(0), min(steps, max(1, least, most // (values * samples))), samples)
