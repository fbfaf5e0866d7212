"""Means and sums over windows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch.nn import functional

from neurocuda.convert.tracing.layer_rules import affine, frames, numbers
from neurocuda.convert.tracing.symbolic import Call, Part, Value, fresh
from neurocuda.graph import Shape

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
    pooled = tuple(pool(x.meta, kernel, step, pad, ceil_mode).shape[2:])
    counts = np.ones((1,) * rank)
    late = []
    for axis in range(rank):
        size = x.shape[1 + axis]
        starts = np.arange(pooled[axis]) * step[axis] - pad[axis]
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
    """Each position times its factor, in all channels."""
    named = Call(call.sketch, f"{call.name}.counts", call.path, call.what)
    return affine(named, y, factors[None] if factors.size > 1 else factors)


def _uniform(
    call: Call, x: Value, kernel: Shape, stride: Shape, padding: Shape, late: Sequence[int] | None = None
) -> Value:
    """The mean over windows of one size; along each axis the last window ends `late` elements behind the padding."""
    parts = []
    for name, part, _ in call.named(x):
        if len(kernel) == 2 and not any(late or ()):
            own = {"kernel_size": kernel, "stride": stride, "padding": padding}
            parts.append(call.sketch.add(name, "AvgPool2d", own, part))
        else:
            taps = np.full(kernel, 1 / np.prod(kernel))
            parts.append(depthwise(call, name, part, taps, stride, padding, late))
    return fresh(x, parts)


def depthwise(
    call: Call,
    name: str,
    part: Part,
    taps: np.ndarray,
    stride: Shape,
    padding: Shape,
    late: Sequence[int] | None = None,
) -> Part:
    """One kernel for each channel; along each axis there are `late` more zeros behind the signal than before it."""
    late = late or (0,) * taps.ndim
    # NIR pads both sides equally: the kernel has zeros for the excess padding before the signal.
    taps = np.pad(taps, [(extra, 0) for extra in late])
    padding = tuple(pad + extra for pad, extra in zip(padding, late, strict=True))
    channels = part.shape[0]
    weight = np.broadcast_to(taps, (channels, 1, *taps.shape)).copy()
    return call.sketch.convolution(name, part, weight, stride=stride, padding=padding, groups=channels)


def adaptive_avg_pool(call: Call, x: Value, rank: int, output_size: int | Sequence[int | None] | None) -> Value:
    """The mean over the windows of torch's adaptive pools, for the traced input size."""
    x = frames(call, x, rank + 1)
    return window_mean(call, x, adaptive_windows(x.shape[1:], output_size))


def adaptive_windows(shape: Shape, output_size: int | Sequence[int | None] | None) -> list[Windows]:
    """Along each axis, the windows of torch's adaptive pools."""
    requested = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * len(shape)
    sizes = [size if n is None else n for n, size in zip(requested, shape, strict=True)]
    return [[(i * size // n, -(-(i + 1) * size // n)) for i in range(n)] for size, n in zip(shape, sizes, strict=True)]


def even(windows: list[Windows], sizes: Shape) -> tuple[Shape, Shape] | None:
    """Kernel and stride of windows that are evenly spaced and of one size along each axis; None for other windows."""
    kernel: list[int] = []
    stride: list[int] = []
    for along, size in zip(windows, sizes, strict=True):
        lengths = {end - start for start, end in along}
        steps = {b[0] - a[0] for a, b in pairwise(along)} or lengths
        if len(lengths) != 1 or len(steps) != 1 or along[0][0] != 0:
            return None
        kernel += lengths
        stride += steps
        if stride[-1] <= 0 or (size - kernel[-1]) // stride[-1] + 1 != len(along):
            return None
    return tuple(kernel), tuple(stride)


def window_mean(call: Call, x: Value, windows: list[Windows]) -> Value:
    """The mean over each window of each channel; for uneven windows, one kernel for each window and channel."""
    sizes = x.shape[1:]
    regular = even(windows, sizes)
    if regular is not None:
        return _uniform(call, x, *regular, (0,) * len(sizes))
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
    for name, part, _ in call.named(x):
        channels = part.shape[0]
        weight = np.broadcast_to(taps[:, None], (channels, len(taps), 1, *sizes)).reshape(-1, 1, *sizes).copy()
        parts.append(call.sketch.convolution(name, part, weight, groups=channels))
    return fresh(x, parts, (x.shape[0], *(len(along) for along in windows)))


def mean(call: Call, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    """The mean over rows, columns or both."""
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
