"""Signals over time as frames, which layers without a state do not tell apart, in the order in which they lie.

Threads share the frames of a layer from first to last, and the neurons of a population, each over all steps. Where
samples lie one after the other, each over all its steps, both are the same memory: a thread reads what it wrote. Cores
with caches apart would wait for each other else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def by_sample(x: Tensor) -> bool:
    """Whether the samples of x [T, B, *shape] lie one after the other, each over all its steps."""
    steps, batch = x.shape[:2]
    return steps > 1 and batch > 1 and x.stride(0) > 0 and x.stride(1) == steps * x.stride(0)


def frames_of(x: Tensor) -> Tensor:
    """The frames [T * B, *shape] of x [T, B, *shape], in the order in which they lie."""
    return (x.transpose(0, 1) if by_sample(x) else x).flatten(0, 1)


def over_time(frames: Tensor, like: Tensor) -> Tensor:
    """Frames [T * B, *shape] in the order of those of `like` as [T, B, *shape]."""
    steps, batch = like.shape[:2]
    if by_sample(like):
        return frames.reshape(batch, steps, *frames.shape[1:]).transpose(0, 1)
    return frames.reshape(steps, batch, *frames.shape[1:])


def laid_by_sample(x: Tensor) -> Tensor:
    """x [T, B, *shape], sample by sample in memory."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Pieces along the first axis, of which all lie in one order in memory."""
    axes, back = _as_they_lie(pieces[0])
    return torch.cat([piece.permute(axes) for piece in pieces], axes.index(0)).permute(back)


def joined_samples(pieces: Sequence[Tensor], by_sample: bool) -> Tensor:
    """Samples of a signal [T, B, *shape], one after the other in memory or not."""
    frame, _ = _as_they_lie(pieces[0][0, 0])
    axes = [*((1, 0) if by_sample else (0, 1)), *(axis + 2 for axis in frame)]
    return torch.cat([piece.permute(axes) for piece in pieces], axes.index(1)).permute(_inverse(axes))


def some_steps(x: Tensor, steps: slice) -> Tensor:
    """Those of x, without gaps in memory where samples lie one after the other."""
    part = x[steps]
    if not by_sample(x):
        return part
    axes, back = _as_they_lie(x)
    return part.permute(axes).contiguous().permute(back)


def _as_they_lie(x: Tensor) -> tuple[list[int], list[int]]:
    """The axes from the slowest in memory to the fastest, and where each of them is in that order."""
    strides = x.stride()
    axes = sorted(range(x.dim()), key=lambda axis: (-strides[axis], axis))
    return axes, _inverse(axes)


def _inverse(axes: Sequence[int]) -> list[int]:
    return [axes.index(axis) for axis in range(len(axes))]
