"""Pools: averages and sums as NIR has them, maxima as trees of rectifiers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from neurocuda.convert import views
from neurocuda.convert.layers import frames, tuple_of, window
from neurocuda.convert.resample import AXES
from neurocuda.convert.values import Call, Part, Signal, numbered

Size = int | Sequence[int]


def average(
    space: int,
    call: Call,
    x: Signal,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Signal:
    """An average pool; where windows at the border have another divisor, a sum and a factor for each place."""
    frames(call, x, space)
    kernel, pads = tuple_of(kernel_size, space), tuple_of(padding, space)
    steps = tuple_of(stride, space) if stride else kernel
    counts = call.shape[2:]
    divisor = np.ones((1,) * space)
    for axis, (k, s, p, size, count) in enumerate(zip(kernel, steps, pads, x.shape[1:], counts, strict=True)):
        start = np.arange(count) * s - p
        end = np.minimum(start + k, size + p)
        taken = end - start if count_include_pad else np.minimum(end, size) - np.maximum(start, 0)
        divisor = divisor * taken.reshape([-1 if other == axis else 1 for other in range(space)])
    if divisor_override:
        divisor = np.full_like(divisor, divisor_override)
    usual = all(
        (size + 2 * p - k) // s + 1 == count
        for k, s, p, size, count in zip(kernel, steps, pads, x.shape[1:], counts, strict=True)
    )
    if space == 2 and usual and (divisor == math.prod(kernel)).all():
        return call.each(x, "AvgPool2d", {"kernel_size": kernel, "stride": steps, "padding": pads})
    same = bool((divisor == divisor.flat[0]).all())
    weight = 1 / float(divisor.flat[0]) if same else 1.0
    taps = [dict.fromkeys(range(-p, k - p), 1.0) for k, p in zip(kernel, pads, strict=True)]
    parts = []
    for suffix, part in numbered(x):
        name, given = window(call, part, suffix if same else f"{suffix}.sum", taps, steps, counts, weight)
        if not same:
            name, given = call.builder.add(call.name + suffix, "Scale", {"scale": 1 / divisor[None]}, [name], given)
        parts.append(Part((name,), given, part.positive))
    return Signal(tuple(parts), x.lead)


def adaptive_average(space: int, call: Call, x: Signal, output_size: Any = None) -> Signal:
    """An average over windows that divide the image as the traced shape has it."""
    frames(call, x, space)
    windows = [_regular(size, count) for size, count in zip(x.shape[1:], call.shape[2:], strict=True)]
    regular = [window for window in windows if window is not None]
    if len(regular) < len(windows):
        parameters = {
            name: _averages(size, count)
            for name, size, count in zip(AXES[space], x.shape[1:], call.shape[2:], strict=True)
        }
        parts = []
        for suffix, part in numbered(x):
            name, _ = call.add("Resample", parameters, part, suffix)
            given = (part.shape[0], *call.shape[2:])
            call.builder.reshape(name, given)
            parts.append(Part((name,), given, part.positive))
        return Signal(tuple(parts), x.lead)
    if all(window == (1, 1) for window in regular):
        return x
    return average(space, call, x, [k for k, _ in regular], [s for _, s in regular])


def _regular(size: int, count: int) -> tuple[int, int] | None:
    """Kernel and stride of adaptive windows, where there are such."""
    starts = [i * size // count for i in range(count)]
    lengths = {-(-(i + 1) * size // count) - start for i, start in enumerate(starts)}
    steps = {b - a for a, b in pairwise(starts)} or {size}
    if len(lengths) > 1 or len(steps) > 1 or 0 in steps:
        return None
    return lengths.pop(), steps.pop()


def _averages(size: int, count: int) -> np.ndarray:
    """The matrix [count, size] of adaptive averages, as torch places their windows."""
    matrix = np.zeros((count, size))
    for i in range(count):
        start, end = i * size // count, -(-(i + 1) * size // count)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def maximum(
    space: int,
    call: Call,
    x: Signal,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Signal:
    """A maximum pool of max(a, b) = a + ReLU(b - a), rows first, then columns.

    Over a window x_0 .. x_k: r_1 = ReLU(x_0 - x_1), r_j = ReLU(x_j-1 - x_j + r_j-1), the maximum is x_k + r_k.
    """
    frames(call, x, space)
    if return_indices:
        raise call.refuse("return_indices=False")
    kernel, pads, gaps = (tuple_of(value, space) for value in (kernel_size, padding, dilation))
    steps = tuple_of(stride, space) if stride else kernel
    if x.spikes and all(len(part.sources) == 1 for part in x.parts):
        taps = [{j * gap - p: 1.0 for j in range(k)} for k, p, gap in zip(kernel, pads, gaps, strict=True)]
        return _any_spike(call, x, taps, steps)
    for axis in range(space):
        offsets = [j * gaps[axis] - pads[axis] for j in range(kernel[axis])]
        count = call.shape[2 + axis]
        beyond = offsets[0] < 0 or (count - 1) * steps[axis] + offsets[-1] >= x.shape[1 + axis]
        if beyond and not x.positive:
            raise call.refuse(
                "a padded maximum of values that are never below 0: put the ReLU before the pool, which gives the same",
                "one of values of any sign",
            )
        if offsets != [0] or steps[axis] != 1:
            x = _maximum(call, x, space, axis, offsets, steps[axis], count)
    return x


def _any_spike(call: Call, x: Signal, taps: Sequence[Mapping[int, float]], steps: Sequence[int]) -> Signal:
    """The maximum of zeros and ones: whether there is a one among them."""
    parts = []
    for suffix, part in numbered(x):
        count, given = window(call, part, f"{suffix}.count", taps, steps, call.shape[2:])
        any_, _ = call.builder.add(call.name + suffix, "Threshold", {"threshold": np.array(0.5)}, [count], given)
        parts.append(Part((any_,), given, True, True))
    return Signal(tuple(parts), x.lead)


def _maximum(call: Call, x: Signal, space: int, axis: int, offsets: list[int], step: int, count: int) -> Signal:
    """The maximum over windows along one axis."""
    parts = []
    for suffix, part in numbered(x):
        name = f"{suffix}.{AXES[space][axis]}"
        steps = [step if other == axis else 1 for other in range(space)]
        counts = [count if other == axis else part.shape[1 + other] for other in range(space)]

        def taps(values: Mapping[int, float], axis: int = axis) -> list[Mapping[int, float]]:
            return [values if other == axis else {0: 1.0} for other in range(space)]

        last: list[str] = []
        for number, (earlier, later) in enumerate(pairwise(offsets), 1):
            less, given = window(call, part, f"{name}.less{number}", taps({earlier: 1.0, later: -1.0}), steps, counts)
            greatest, _ = call.builder.add(f"{call.name}{name}.max{number}", "ReLU", {}, [less, *last], given)
            last = [greatest]
        base, given = window(call, part, f"{name}.last", taps({offsets[-1]: 1.0}), steps, counts)
        parts.append(Part((base, *last), given, part.positive))
    return Signal(tuple(parts), x.lead)


def adaptive_maximum(space: int, call: Call, x: Signal, return_indices: bool = False) -> Signal:
    """A maximum over windows that divide the image evenly."""
    frames(call, x, space)
    windows = [_regular(size, count) for size, count in zip(x.shape[1:], call.shape[2:], strict=True)]
    regular = [window for window in windows if window is not None]
    if len(regular) < len(windows):
        found = f"{x.shape[1:]} to {call.shape[2:]}"
        raise call.refuse("an image that divides into windows of one size (another size of the example)", found)
    return maximum(space, call, x, [k for k, _ in regular], [s for _, s in regular], return_indices=return_indices)


def mean(
    call: Call, x: Signal, dim: Any = None, keepdim: bool = False, *, dtype: None = None, axis: Any = None
) -> Signal:
    """The mean over axes of space."""
    return _over_space(call, x, dim if axis is None else axis, mean=True)


def total(
    call: Call, x: Signal, dim: Any = None, keepdim: bool = False, *, dtype: None = None, axis: Any = None
) -> Signal:
    """The sum over axes of space."""
    return _over_space(call, x, dim if axis is None else axis, mean=False)


def _over_space(call: Call, x: Signal, dim: Any, mean: bool) -> Signal:
    space, rank = len(x.shape) - 1, x.lead + len(x.shape)
    axes = range(rank) if dim is None else [axis % rank for axis in ([dim] if isinstance(dim, int) else dim)]
    if any(axis <= x.lead for axis in axes) or space not in (1, 2):
        found = f"one over the axes {sorted(axes)} of {rank}"
        raise call.refuse("a mean or sum over axes of space (over time or samples: of what the network returns)", found)
    kernel = [size if x.lead + 1 + place in axes else 1 for place, size in enumerate(x.shape[1:])]
    if space == 2:
        kind = "AvgPool2d" if mean else "SumPool2d"
        x = call.each(x, kind, {"kernel_size": tuple(kernel), "stride": tuple(kernel), "padding": (0, 0)})
    else:
        weight = 1 / kernel[0] if mean else 1.0
        parts = []
        for suffix, part in numbered(x):
            name, given = window(call, part, suffix, [dict.fromkeys(range(kernel[0]), 1.0)], kernel, (1,), weight)
            parts.append(Part((name,), given, part.positive))
        x = Signal(tuple(parts), x.lead)
    return views.view(call, x)
