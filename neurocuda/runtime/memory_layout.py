"""Cuts the signals of a chunk into tiles and joins them again, in their own memory order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neurocuda.runtime.layers import is_by_sample


def join_steps(tiles: Sequence[Tensor]) -> Tensor:
    """Joins tiles in time, all in one memory order."""
    axes, back = _memory_order(tiles[0])
    return torch.cat([tile.permute(axes) for tile in tiles], axes.index(0)).permute(back)


def join_samples(tiles: Sequence[Tensor], by_sample: bool) -> Tensor:
    """Joins tiles of samples to a signal [T, B, *shape]. by_sample: stored sample by sample."""
    frame, _ = _memory_order(tiles[0][0, 0])
    axes = [*((1, 0) if by_sample else (0, 1)), *(axis + 2 for axis in frame)]
    return torch.cat([tile.permute(axes) for tile in tiles], axes.index(1)).permute(_inverse(axes))


def cut_steps(x: Tensor, steps: slice) -> Tensor:
    """Some time steps of x; a contiguous copy if x is stored by sample."""
    part = x[steps]
    if not is_by_sample(x):
        return part
    axes, back = _memory_order(x)
    return part.permute(axes).contiguous().permute(back)


def _memory_order(x: Tensor) -> tuple[list[int], list[int]]:
    """The axes from the slowest in memory to the fastest, and the inverse permutation."""
    strides = x.stride()
    axes = sorted(range(x.dim()), key=lambda axis: (-strides[axis], axis))
    return axes, _inverse(axes)


def _inverse(axes: Sequence[int]) -> list[int]:
    return [axes.index(axis) for axis in range(len(axes))]
