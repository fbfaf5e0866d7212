"""Means and sums over windows."""

from __future__ import annotations

<<<<<<< HEAD
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any
=======
from collections.abc import Sequence
from itertools import pairwise
>>>>>>> convert

import numpy as np
from torch.nn import functional

<<<<<<< HEAD
from neurocuda.convert import views
from neurocuda.convert.layers import frames, tuple_of, window
from neurocuda.convert.resample import AXES
from neurocuda.convert.values import Call, Part, Signal, numbered
=======
from neurocuda.convert.layers import affine, frames, numbers
from neurocuda.convert.values import Call, Part, Value, fresh, true_parts
from neurocuda.graph import Shape
>>>>>>> convert

Windows = list[tuple[int, int]]
"""The windows along one axis, each from its first element to the one after its last."""


def avg_pool(
    call: Call,
    x: Value,
    rank: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """The mean over windows, as torch counts their elements."""
    x = frames(call, x, rank + 1)
    kernel = numbers(kernel_size, rank)
    step = kernel if stride is None or stride == () else numbers(stride, rank)
    pad = numbers(padding, rank)
    pool = functional.avg_pool1d if rank == 1 else functional.avg_pool2d
    given = tuple(pool(x.meta, kernel, step, pad, ceil_mode).shape[2:])
    counts = np.ones((1,) * rank)
    late = []
    for axis in range(rank):
        size = x.shape[1 + axis]
        starts = np.arange(given[axis]) * step[axis] - pad[axis]
        late.append(max(0, int(starts[-1]) + kernel[axis] - size - pad[axis]))
        low, high = (0, size) if not count_include_pad else (-pad[axis], size + pad[axis])
        count = np.minimum(starts + kernel[axis], high) - np.maximum(starts, low)
        counts = counts * count.reshape(-1, *(1,) * (rank - 1 - axis))
    area = int(np.prod(kernel))
    y = _uniform(call, x, kernel, step, pad, late)
    if divisor_override is not None:
        counts = np.full_like(counts, divisor_override)
    return y if (counts == area).all() else _scaled(call, y, area / counts)


def _scaled(call: Call, y: Value, factors: np.ndarray) -> Value:
    """Each place times its own factor, in all channels."""
    named = Call(call.sketch, f"{call.name}.counts", call.path, call.what)
    return affine(named, y, factors[None] if factors.size > 1 else factors)


def _uniform(
    call: Call, x: Value, kernel: Shape, stride: Shape, padding: Shape, late: Sequence[int] | None = None
) -> Value:
    """The sum over windows of one size divided by that size, `late` windows' ends beyond the padding."""
    parts = []
<<<<<<< HEAD
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
=======
    for number, part in enumerate(x.parts):
        name = call.named(number, len(x.parts))
        if len(kernel) == 2 and not any(late or ()):
            own = {"kernel_size": kernel, "stride": stride, "padding": padding}
            parts.append(call.sketch.add(name, "AvgPool2d", own, part))
        else:
            taps = np.full(kernel, 1 / np.prod(kernel))
            parts.append(depthwise(call, name, part, taps, stride, padding, late))
    return true_parts(x, parts)


def depthwise(
    call: Call,
    name: str,
    part: Part,
    taps: np.ndarray,
    stride: Shape,
    padding: Shape,
    late: Sequence[int] | None = None,
) -> Part:
    """One kernel for each channel; along each axis `late` zeros more behind the signal than before it."""
    late = late or (0,) * taps.ndim
    # NIR pads both sides alike: the kernel jumps over what is too much before the signal.
    taps = np.pad(taps, [(extra, 0) for extra in late])
    padding = tuple(pad + extra for pad, extra in zip(padding, late, strict=True))
    channels = part.shape[0]
    weight = np.broadcast_to(taps, (channels, 1, *taps.shape)).copy()
    return call.sketch.convolution(name, part, weight, stride=stride, padding=padding, groups=channels)


def adaptive_avg_pool(call: Call, x: Value, rank: int, output_size: int | Sequence[int | None] | None) -> Value:
    """The mean over the windows that the traced size and the size asked for make."""
    x = frames(call, x, rank + 1)
    return window_mean(call, x, adaptive_windows(x.shape[1:], output_size))


def adaptive_windows(shape: Shape, output_size: int | Sequence[int | None] | None) -> list[Windows]:
    """Along each axis, the windows of torch's adaptive pools."""
    asked = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * len(shape)
    wanted = [size if n is None else n for n, size in zip(asked, shape, strict=True)]
    return [[(i * size // n, -(-(i + 1) * size // n)) for i in range(n)] for size, n in zip(shape, wanted, strict=True)]


def even(windows: Windows, size: int) -> tuple[int, int] | None:
    """Kernel and stride where windows are of one size and one distance, as a pool without padding has them."""
    lengths = {end - start for start, end in windows}
    steps = {b[0] - a[0] for a, b in pairwise(windows)}
    if len(lengths) != 1 or len(steps) > 1 or windows[0][0] != 0:
        return None
    kernel = lengths.pop()
    stride = steps.pop() if steps else kernel
    return (kernel, stride) if stride > 0 and (size - kernel) // stride + 1 == len(windows) else None


def window_mean(call: Call, x: Value, windows: list[Windows]) -> Value:
    """The mean over each window of each channel; uneven windows as many kernels for each channel."""
    sizes = x.shape[1:]
    pairs = [even(along, size) for along, size in zip(windows, sizes, strict=True)]
    known = [pair for pair in pairs if pair is not None]
    if len(known) == len(pairs):
        kernel, stride = (tuple(pair[i] for pair in known) for i in (0, 1))
        return _uniform(call, x, kernel, stride, (0,) * len(sizes))
    kernels = np.ones((1,) * (2 * len(sizes)))
    for axis, (along, size) in enumerate(zip(windows, sizes, strict=True)):
        shares = np.zeros((len(along), size))
        for row, (start, end) in zip(shares, along, strict=True):
            row[start:end] = 1 / (end - start)
        axes = [1] * kernels.ndim
        axes[axis], axes[len(sizes) + axis] = shares.shape
        kernels = kernels * shares.reshape(axes)
    taps = kernels.reshape(-1, *sizes)
    parts = []
    for number, part in enumerate(x.parts):
        channels = part.shape[0]
        weight = np.broadcast_to(taps[:, None], (channels, len(taps), 1, *sizes)).reshape(-1, 1, *sizes).copy()
        name = call.named(number, len(x.parts))
        parts.append(call.sketch.convolution(name, part, weight, groups=channels))
    return fresh(x, parts, (x.shape[0], *(len(along) for along in windows)))


def mean(call: Call, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    """The mean over whole axes, rows or columns or both."""
    lead = len(x.lead)
    rank = lead + len(x.shape)
    chosen = sorted({axis % rank for axis in axes})
    if not chosen or chosen[0] <= lead or len(x.shape) not in (2, 3):
        call.refuse(f"it takes the mean over axes {tuple(axes)} of {rank}", "take it over rows and columns alone")
    x = call.true(x)
    sizes = x.shape[1:]
    windows = [
        [(0, size)] if lead + 1 + axis in chosen else [(i, i + 1) for i in range(size)]
        for axis, size in enumerate(sizes)
    ]
    y = window_mean(call, x, windows)
    if keepdim:
        return y
    shape = tuple(size for axis, size in enumerate(y.shape) if lead + axis not in chosen)
    return Value(y.parts, shape, y.lead, view=f"{call.name}.flatten")
>>>>>>> convert
