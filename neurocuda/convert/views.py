"""What changes the shape of a tensor, and what puts tensors side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from neurocuda.convert.values import Call, Part, Signal
from neurocuda.graph import Shape


def view(call: Call, x: Signal) -> Signal:
    """The signal in the shape that the call returned, its elements in the same order: axes may be merged."""
    lead = call.lead()
    new = call.shape[lead:]
    merged = _merged(x.shape, new)
    if merged is None:
        raise call.refuse(
            "a view that merges axes, as NIR has none that splits them (an example in its final shape needs none)",
            f"samples of shape {x.shape} viewed as {new}",
        )
    for start, end in reversed(merged):
        x = call.each(x, "Flatten", {"start_dim": start, "end_dim": end})
    return Signal(x.parts, lead)


def _merged(old: Shape, new: Shape) -> list[tuple[int, int]] | None:
    """First and last axis of each run of old axes that becomes one new axis; None where that is not what happens."""
    runs = []
    axis = 0
    for size in new:
        start, product = axis, 1
        while axis < len(old) and (product < size or axis == start):
            product *= old[axis]
            axis += 1
        if product != size or axis == start:
            return None
        runs.append((start, axis - 1))
    if any(size != 1 for size in old[axis:]) or (old and not new):
        return None
    if axis < len(old):
        runs[-1] = (runs[-1][0], len(old) - 1)
    return [(start, end) for start, end in runs if end > start]


def permute(call: Call, x: Signal, *args: Any, **kwargs: Any) -> Signal:
    """A permutation of axes, where only axes of size 1 move."""
    before = (*call.sizes(x.lead), *x.shape)
    places = torch.arange(math.prod(before)).reshape(before)
    moved = getattr(torch, call.function)(
        places,
        args if len(args) > 1 and call.function == "permute" else args[0],
        *(args[1:] if call.function != "permute" else ()),
        **kwargs,
    )
    if not torch.equal(moved.reshape(-1), places.reshape(-1)):
        raise call.refuse("axes in the order of torch (batch, channels, space), as NIR has no permutation of them")
    return view(call, x)


def cast(call: Call, x: Signal, *args: Any, **kwargs: Any) -> Signal:
    """A change of device, or from one floating-point type to another that is no narrower than float32."""
    if call.dtype not in (torch.float32, torch.float64):
        raise call.refuse("float32 or float64 throughout", f"a cast to {call.dtype}")
    return x


def cat(call: Call, tensors: Sequence[Any], dim: int = 0, *, axis: int | None = None, out: None = None) -> Signal:
    """Tensors side by side along the axis of channels: no node, the layers that take it are split."""
    if any(not isinstance(tensor, Signal) for tensor in tensors):
        raise call.refuse("tensors that depend on the input", "a constant among what is put together")
    first: Signal = tensors[0]
    place = (dim if axis is None else axis) % len(call.shape)
    if place != first.lead or any(tensor.lead != first.lead for tensor in tensors):
        raise call.refuse("a concatenation along the axis of channels", f"one along axis {place}")
    parts: list[Part] = [part for tensor in tensors for part in tensor.parts]
    return Signal(tuple(parts), first.lead)
