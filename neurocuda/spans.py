"""How many steps a chunk has, and which neighbouring stages run over short pieces of it, one piece after the other.

What stands between them then fits in the caches, and the chunk takes less memory. A library layer with many weights for
its output is better run over many frames at once, for it reads all its weights at each call.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch

from neurocuda.graph import Node
from neurocuda.lowering import BY_LIBRARY, LoweredSchedule, LoweredStage

CHUNK = 32
"""Steps that a chunk has at least where nobody asks for a number."""

AT_ONCE, ON_GPU = 2**19, 2**24
"""Values of the largest signal of a chunk, where that is more steps: 2 MiB on a CPU, whose threads wait for each other
in each chunk, and 64 MiB on a GPU, which longer chunks fill better."""

PIECE = 2**19
"""A thread's values of the largest signal of a piece, where that is more than a step: 2 MiB, a second-level cache."""


@dataclass(frozen=True)
class Span:
    """Neighbouring stages, by their numbers, and the steps of a piece; at least those of the chunk: one piece."""

    stages: range
    steps: int


def steps_of_chunk(lowered: LoweredSchedule, asked: int | None, steps: int, batch: int, device: torch.device) -> int:
    """The length of all chunks of `steps` steps but the last, which may be shorter."""
    if not lowered.layered:
        return steps
    if asked is not None or steps <= CHUNK:
        return asked or CHUNK
    widest = max(_values(stage) for stage in lowered.stages) * batch
    chunks = -(-steps // max(CHUNK, (AT_ONCE if device.type == "cpu" else ON_GPU) // max(1, widest)))
    return -(-steps // chunks)


def spans(
    lowered: LoweredSchedule, batch: int, steps: int, threads: int = 1, fused: Collection[int] = frozenset()
) -> tuple[Span, ...]:
    """The stages of a chunk of `steps` steps of `batch` samples, span by span, where so many threads share each stage.

    `fused` are the numbers of cycles that run as one operator, which carries its state from piece to piece.
    """
    if not lowered.layered:
        return (Span(range(len(lowered.stages)), steps),)
    own = {(stage.soft_reset.threshold, stage.soft_reset.scale) for stage in lowered.stages if stage.soft_reset}
    outer = [edge for edge in lowered.schedule.delayed if (edge.source, edge.target) not in own]
    late = {name for edge in outer for name in (edge.source, edge.target)}
    found: list[Span] = []
    for number, stage in enumerate(lowered.stages):
        step_by_step = stage.cyclic and number not in fused
        whole = step_by_step or any(entry.node.name in late for entry in stage.nodes)
        wanted = steps if whole else _piece(stage, batch, steps, threads)
        joined = min(wanted, found[-1].steps) if found else wanted
        if found and found[-1].steps < steps and not whole and _frames_wanted(stage) <= joined * batch:
            found[-1] = Span(range(found[-1].stages.start, number + 1), joined)
        elif wanted == steps or _frames_wanted(stage) > wanted * batch:
            start = found.pop().stages.start if found and found[-1].steps == steps else number
            found.append(Span(range(start, number + 1), steps))
        else:
            found.append(Span(range(number, number + 1), wanted))
    return tuple(found)


def _piece(stage: LoweredStage, batch: int, steps: int, threads: int) -> int:
    """The steps over which no signal of the stage has more than PIECE values for a thread; at least one.

    All, where no signal is more than twice as much: to cut what comes and to join what goes takes what it saves.
    """
    values = max(1, _values(stage) * batch)
    return min(steps, max(1, PIECE * threads // values)) if values * steps > 2 * PIECE else steps


def _values(stage: LoweredStage) -> int:
    """Of the largest signal of the stage, in a step of one sample."""
    return max(max(math.prod(n.input_shape), math.prod(n.output_shape)) for n in _nodes(stage))


def _frames_wanted(stage: LoweredStage) -> float:
    """Frames for which the outputs of a library layer are as many as its weights."""
    library = [entry.node for entry in stage.nodes if entry.how in BY_LIBRARY]
    return max((n.array("weight").size / max(1, math.prod(n.output_shape)) for n in library), default=0.0)


def _nodes(stage: LoweredStage) -> list[Node]:
    return [entry.node for entry in stage.nodes]
