"""Maxima over windows, exactly: max(a, b) = a + ReLU(b - a), as a tree, rows and columns one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch.nn import functional

from neurocuda.convert.tracing.layer_rules import frames, numbers
from neurocuda.convert.tracing.pool_rules import adaptive_windows, depthwise, even
from neurocuda.convert.tracing.symbolic import Call, Part, Sketch, Value, fresh
from neurocuda.graph import Node

MAXIMUM = "part of a maximum"
"""In the metadata of a ReLU that compares two signals for a maximum."""


def max_pool(
    call: Call,
    x: Value,
    rank: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """The maximum over windows. Padding counts as zero, so a padded signal must never be negative.

    The maximum of the outputs of a ReLU is computed before the ReLU, which then follows it: the values are the same,
    the neurons fewer, and sums of many spikes fluctuate less than the spikes of single neurons.
    """
    if return_indices:
        call.refuse("it returns indices", "return_indices=False")
    x = frames(call, x, rank + 1)
    kernel, pad, gap = (numbers(value, rank) for value in (kernel_size, padding, dilation))
    step = kernel if stride is None or stride == () else numbers(stride, rank)
    pool = functional.max_pool1d if rank == 1 else functional.max_pool2d
    pooled = tuple(pool(x.meta, kernel, step, pad, gap, ceil_mode).shape[2:])
    late = []
    for axis, size in enumerate(x.shape[1:]):
        end = (pooled[axis] - 1) * step[axis] - pad[axis] + gap[axis] * (kernel[axis] - 1) + 1
        late.append(max(0, end - size - pad[axis]))
    rectified = [_rectified(call.sketch, part) for part in x.parts]
    if (any(pad) or any(late)) and None in rectified:
        for part in x.parts:
            if not all(never_negative(call.sketch, source) for source in part.sources):
                call.refuse(
                    "it pads a signal that may be negative",
                    "put a ReLU before it (a ReLU after it may change places with it)",
                )
    parts = []
    for (name, part, _), rectifier in zip(call.named(x), rectified, strict=True):
        if rectifier is not None:
            part = Part(tuple(call.sketch.into[rectifier.name]), part.shape)
        for axis in reversed(range(rank)):
            part = _along(call, name, part, axis, kernel[axis], step[axis], pad[axis], gap[axis], late[axis])
        if rectifier is not None:
            part = call.sketch.add(f"{name}.relu", "ReLU", rectifier.parameters, part)
        parts.append(part)
    return fresh(x, parts)


def _rectified(sketch: Sketch, part: Part) -> Node | None:
    """The ReLU that is the only source of a part, if there is one."""
    node = sketch.nodes[part.sources[0]]
    alone = len(part.sources) == 1 and node.primitive.is_rectifier and node.output_shape == part.shape
    return node if alone and sketch.into[node.name] else None


def adaptive_max_pool(
    call: Call,
    x: Value,
    rank: int,
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> Value:
    """The maximum over the windows of torch's adaptive pools, for the traced input size."""
    x = frames(call, x, rank + 1)
    regular = even(adaptive_windows(x.shape[1:], output_size), x.shape[1:])
    if regular is None:
        call.refuse(f"its windows of {x.shape[1:]} are not all of one size", "choose a size that divides evenly")
    return max_pool(call, x, rank, *regular, return_indices=return_indices)


def never_negative(sketch: Sketch, name: str) -> bool:
    """Whether the output of a node is never negative, by its primitive, its weights and its sources."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        node = sketch.nodes[waiting.pop()]
        primitive = node.primitive
        if node.name in seen or primitive.is_rectifier:
            continue
        arrays = [value for value in node.parameters.values() if isinstance(value, np.ndarray)]
        weighted = primitive.weight_field and all((values >= 0).all() for values in arrays)
        if not (weighted or primitive.is_pool or primitive.forwards_values):
            return False
        seen.add(node.name)
        waiting += sketch.into[node.name]
    return True


def _along(
    call: Call, name: str, part: Part, axis: int, count: int, stride: int, pad: int, gap: int, late: int
) -> Part:
    """The maximum over windows along one axis (0 the first behind the channels)."""
    rank = len(part.shape) - 1
    if count == stride == 1 and not pad:
        return part
    label = "columns" if axis == rank - 1 else "rows"

    def select(what: str, plus: int, minus: int | None = None) -> Part:
        """The element `plus` of each window, less the element `minus`."""
        taps = np.zeros(gap * (count - 1) + 1)
        taps[gap * plus] += 1
        if minus is not None:
            taps[gap * minus] -= 1
        one, zero = (1,) * rank, (0,) * rank
        shape = (*one[:axis], len(taps), *one[axis + 1 :])
        steps = (*one[:axis], stride, *one[axis + 1 :])
        pads, lates = ((*zero[:axis], n, *zero[axis + 1 :]) for n in (pad, late))
        return depthwise(call, f"{name}.{label}.{what}", part, taps.reshape(shape), steps, pads, lates)

    def greatest(first: int, end: int) -> tuple[str, ...]:
        """ReLUs that, with the element `first`, sum to the maximum of the elements up to `end`."""
        if end - first == 1:
            return ()
        middle = (first + end + 1) // 2
        mine, other = greatest(first, middle), greatest(middle, end)
        ahead = select(f"difference{middle}", middle, first)
        sources = [*ahead.sources, *other]
        for rectified in mine:
            scale = {"scale": np.array(-1.0)}
            source = Part((rectified,), ahead.shape)
            sources += call.sketch.add(f"{rectified}.negative", "Scale", scale, source).sources
        node = call.sketch.add(f"{name}.{label}.relu{middle}", "ReLU", {}, Part(tuple(sources), ahead.shape))
        (added,) = node.sources
        call.sketch.nodes[added] = replace(call.sketch.nodes[added], metadata={MAXIMUM: 1})
        return (*mine, added)

    base = select("first", 0)
    return Part((*base.sources, *greatest(0, count)), base.shape)
