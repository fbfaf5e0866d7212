"""How many steps a chunk has, and which neighbouring stages run over short pieces of it, one piece after the other.

What stands between them then fits in the caches, and the chunk takes less memory. A library layer with many weights for
its output is better run over many frames at once, for it reads all its weights at each call.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from operator import attrgetter

import torch

from neurocuda.compiler.lowering import LoweredSchedule, LoweredStage

CHUNK = 32
"""Steps that a chunk has at least where nobody asks for a number."""

AT_ONCE, ON_GPU = 2**19, 2**24
"""Values of the largest signal of a chunk, where that is more steps: 2 MiB on a CPU, whose threads wait for each other
in each chunk, and 64 MiB on a GPU, which longer chunks fill better."""

PIECE = 2**19
"""A thread's values of the largest signal of a piece, where that is more than a step: 2 MiB, a second-level cache."""


@dataclass(frozen=True)
class Span:
    """Neighbouring stages, by their numbers, and what a piece is: some steps of some samples, one piece of these after
    the other before the next samples.
    """

    stages: range
    steps: int
    samples: int
    frames: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", self.steps * self.samples)


def steps_of_chunk(lowered: LoweredSchedule, asked: int | None, steps: int, batch: int, device: torch.device) -> int:
    """The length of all chunks of `steps` steps but the last, which may be shorter."""
    if not lowered.layered:
        return steps
    if asked is not None or steps <= CHUNK:
        return asked or CHUNK
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
    """The stages of a chunk of `steps` steps of `batch` samples, span by span, where so many threads share each stage.

    `fused` are the numbers of cycles that run as one operator, which carries its state from piece to piece. `alone`:
    the chunk leaves its outputs and no state, which goes with the samples of a piece then: pieces are of few samples.
    A state that is left would have to be joined of theirs, which takes its memory twice.
    """
    if not lowered.layered:
        return (Span(range(len(lowered.stages)), steps, batch),)
    everything = Span(range(0), steps, batch)
    found: list[Span] = []
    for number, stage in enumerate(lowered.stages):
        whole = (stage.cyclic and number not in fused) or not lowered.late.isdisjoint(stage.names)
        wanted = everything if whole else _piece(stage, batch, steps, threads, alone)
        last = found[-1] if found else wanted
        joined = wanted if wanted.frames <= last.frames else last
        after_tiles = found and last.frames < everything.frames
        if after_tiles and not whole and stage.frames_wanted <= joined.frames:
            found[-1] = replace(joined, stages=range(last.stages.start, number + 1))
        elif wanted.frames == everything.frames or stage.frames_wanted > wanted.frames:
            start = found.pop().stages.start if found and not after_tiles else number
            found.append(replace(everything, stages=range(start, number + 1)))
        else:
            found.append(replace(wanted, stages=range(number, number + 1)))
    return tuple(found)


def _piece(stage: LoweredStage, batch: int, steps: int, threads: int, alone: bool) -> Span:
    """As many steps as no signal of the stage has more than PIECE values of for a thread, at least one: of all samples,
    or alone, of as many as have all their steps in a piece, one for each thread at least.

    All of both where no signal is more than twice as much: to cut what comes and to join what goes takes what it saves.
    """
    values, most = max(1, stage.largest), PIECE * threads
    if values * batch * steps <= 2 * PIECE:
        return Span(range(0), steps, batch)
    samples, least = batch, 1
    if alone:
        samples = min(batch, max(threads, most // (values * steps), math.ceil(stage.frames_wanted / steps)))
        least = math.ceil(stage.frames_wanted / samples)
    return Span(range(0), min(steps, max(1, least, most // (values * samples))), samples)
