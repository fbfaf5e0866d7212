"""Layers of weights, normalisation, rectifiers and sums as nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from neurocuda.convert.values import Call, Part, Signal, numbered, weighted, whole
from neurocuda.graph import SPIKING, Shape
from neurocuda.nn import Neuron


def array(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor, in float64."""
    numbers: np.ndarray = tensor.detach().cpu().double().numpy()
    return numbers


def tuple_of(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One number for each axis of space, as torch takes them."""
    values = (value,) if isinstance(value, int) else tuple(int(n) for n in value)
    return values * count if len(values) == 1 else values


def number(call: Call, value: Any) -> float:
    """A number that may stand in a tensor."""
    if (isinstance(value, Tensor) and value.numel() == 1) or isinstance(value, int | float):
        return float(value)
    raise call.refuse("a number", f"a {type(value).__name__}")


def constant(call: Call, x: Signal, value: Any) -> np.ndarray:
    """A constant beside a signal, as one value for each channel [C], or [1] for all."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return np.array([number(call, value)])
    rank = x.lead + len(x.shape)
    own = array(value)
    if own.ndim <= rank:
        own = own.reshape((1,) * (rank - own.ndim) + own.shape)
        for axis in range(rank):
            first = own.take([0], axis=axis)
            own = first if axis != x.lead and (own == first).all() else own
        fits = all(size == 1 for axis, size in enumerate(own.shape) if axis != x.lead)
        if fits and (own.size == 1 or own.size == x.shape[0]) and call.shape[x.lead :] == x.shape:
            return own.reshape(-1)
    raise call.refuse(
        "constants of one value, or one for each channel, beside a signal",
        f"one of shape {tuple(value.shape)} beside samples of shape {x.shape}",
    )


def scaled(call: Call, x: Signal, factor: Any, inverse: bool = False) -> Signal:
    """A signal times a constant, or divided by it."""
    values = constant(call, x, factor)
    if inverse and not values.all():
        raise call.refuse("a divisor other than 0")
    return gain(call, x, 1 / values if inverse else values, np.zeros(1))


def combine(call: Call, x: Any, y: Any, first: float, second: float) -> Signal:
    """first * x + second * y, where one may be a constant."""
    if not isinstance(x, Signal):
        return combine(call, y, x, second, first)
    if isinstance(y, Signal):
        return add(call, scaled(call, x, first), scaled(call, y, second))
    return gain(call, x, np.array([first]), second * constant(call, x, y))


def frames(call: Call, x: Signal, space: int | None = None) -> None:
    """Refuse what torch would take for a batch of images, and is not one."""
    if x.lead != 1:
        raise call.refuse("a layer that sees one step at a time: neurocuda.nn.PerStep(layer)", "one on [T, B, ...]")
    if space is not None and len(x.shape) != space + 1:
        raise call.refuse(f"samples of channels and {space} axes of space", f"samples of shape {x.shape}")


def convolution(
    call: Call,
    x: Signal,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Signal:
    """A convolution; over several parts it is one for each, and the bias is in the first."""
    space = weight.dim() - 2
    if space not in (1, 2):
        raise call.refuse("convolutions over one or two axes of space, which are all that NIR has")
    frames(call, x, space)
    w, b = array(weight), np.zeros(weight.shape[0]) if bias is None else array(bias)
    steps, gaps = tuple_of(stride, space), tuple_of(dilation, space)
    pads = padding if isinstance(padding, str) else tuple_of(padding, space)
    per_group = w.shape[1]
    if groups > 1 and any(part.shape[0] % per_group for part in x.parts):
        x = whole(call, x)
    sources: list[str] = []
    parts: list[Part] = []
    first = 0
    for suffix, part in numbered(x):
        size = part.shape[0]
        if groups == 1:
            own, offset, count = w[:, first : first + size], b if not sources else np.zeros_like(b), 1
        else:
            count = size // per_group
            rows = slice(first // per_group * (len(w) // groups), (first + size) // per_group * (len(w) // groups))
            own, offset = w[rows], b[rows]
        kind, parameters = weighted(own, offset, space, stride=steps, padding=pads, dilation=gaps, groups=count)
        name, given = call.add(kind, parameters, part, suffix)
        sources.append(name)
        parts.append(Part((name,), given))
        first += size
    return Signal((Part(tuple(sources), parts[0].shape),) if groups == 1 else tuple(parts), x.lead)


def linear(call: Call, x: Signal, weight: Tensor, bias: Tensor | None = None) -> Signal:
    """A matrix on the last axis; where there are axes before it, one for each of their places."""
    w, b = array(weight), None if bias is None else array(bias)
    outer = x.shape[:-1]
    if outer or (len(x.parts) > 1 and len(x.shape) != 1):
        x = whole(call, x)
        w = np.broadcast_to(w, (*outer, *w.shape))
        b = None if b is None else np.broadcast_to(b, (*outer, *b.shape))
    sources: list[str] = []
    given: Shape = ()
    first = 0
    for suffix, part in numbered(x):
        size = part.shape[-1]
        kind, parameters = weighted(w[..., first : first + size], None if sources else b, 0)
        name, given = call.add(kind, parameters, part, suffix)
        sources.append(name)
        first += size
    return Signal((Part(tuple(sources), given),), x.lead)


def gain(call: Call, x: Signal, scale: np.ndarray, shift: np.ndarray) -> Signal:
    """x * scale + shift, for each channel [C] or one for all: a node that `fold` takes out again."""
    if (scale == 1).all() and (shift == 0).all():
        return x
    parts = []
    first = 0
    for suffix, part in numbered(x):
        size = part.shape[0] if part.shape else 1
        own = [np.broadcast_to(values, (x.shape or (1,))[:1])[first : first + size] for values in (scale, shift)]
        name, given = call.add("Gain", {"scale": own[0], "shift": own[1]}, part, suffix)
        positive = part.positive and bool((own[0] >= 0).all() and (own[1] >= 0).all())
        parts.append(Part((name,), given, positive))
        first += size
    return Signal(tuple(parts), x.lead)


def batch_norm(
    call: Call,
    x: Signal,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Signal:
    """Normalisation by running statistics."""
    frames(call, x)
    if training or running_mean is None or running_var is None:
        raise call.refuse(
            "running statistics (track_running_stats=True), as those of a batch change with it", "none of them"
        )
    scale = 1 / np.sqrt(array(running_var) + eps)
    scale = scale if weight is None else scale * array(weight)
    shift = (0 if bias is None else array(bias)) - array(running_mean) * scale
    return gain(call, x, scale, shift)


def relu(call: Call, x: Signal, cap: float | None = None) -> Signal:
    """max(x, 0), or min(max(x, 0), cap)."""
    return call.each(x, "ReLU", {} if cap is None else {"cap": np.array(float(cap))})


def neuron(call: Call, module: Neuron, x: Signal) -> Signal:
    """A population of neurons over time."""
    if x.lead != 2:
        raise call.refuse("neurons that take signals over time [T, B, ...]", "neurons inside PerStep")
    x = whole(call, x)
    (part,) = x.parts
    node = module.node(call.name, part.shape)
    name, given = call.add(node.type, node.parameters, part)
    fires = node.type in SPIKING
    return Signal((Part((name,), given, fires, fires),), x.lead)


def pad(call: Call, x: Signal, pads: Any, mode: str = "constant", value: float | None = None) -> Signal:
    """Zeros around the axes of space, given from the last axis on: a convolution that moves each channel."""
    space = len(x.shape) - 1
    frames(call, x)
    if mode != "constant" or value or min(pads) < 0 or space not in (1, 2) or len(pads) > 2 * space:
        raise call.refuse("zeros around the axes of space", f"mode {mode!r}, value {value}, {tuple(pads)}")
    before = [*pads[::2], 0, 0][:space][::-1]
    taps = [{-zeros: 1.0} for zeros in before]
    parts = []
    for suffix, part in numbered(x):
        name, given = window(call, part, suffix, taps, (1,) * space, call.shape[2:])
        parts.append(Part((name,), given, part.positive))
    return Signal(tuple(parts), x.lead)


def window(
    call: Call,
    part: Part,
    suffix: str,
    taps: Sequence[Mapping[int, float]],
    steps: Sequence[int],
    counts: Sequence[int],
    weight: float = 1.0,
) -> tuple[str, Shape]:
    """A convolution of each channel by itself.

    Window i along an axis takes element i * step + offset with its weight, for each offset in the taps of the axis, and
    zero for elements beyond the border; there are `counts` of them.
    """
    kernel = np.full((1,) * len(taps), weight)
    pads = []
    for axis, (own, step, count) in enumerate(zip(taps, steps, counts, strict=True)):
        size, low, high = part.shape[1 + axis], min(own), max(own)
        zeros = max(0, -low, high + 1 + step * (count - 1) - size)
        # the shortest kernel that holds the taps, and of which not one more fits into the image
        values = np.zeros(max(high + zeros + 1, size + 2 * zeros - step * count + 1))
        for offset, value in own.items():
            values[offset + zeros] = value
        kernel = kernel * values.reshape([-1 if other == axis else 1 for other in range(len(taps))])
        pads.append(zeros)
    channels = part.shape[0]
    w = np.broadcast_to(kernel, (channels, 1, *kernel.shape))
    kind, parameters = weighted(w, None, len(taps), stride=steps, padding=pads, groups=channels)
    return call.add(kind, parameters, part, suffix)


def add(call: Call, x: Signal, y: Signal) -> Signal:
    """A sum makes no node: it is two edges into whatever takes it."""
    if x.shape != y.shape or x.lead != y.lead:
        raise call.refuse("terms of one shape", f"samples of shapes {x.shape} and {y.shape}")
    if [part.shape for part in x.parts] != [part.shape for part in y.parts]:
        x, y = whole(call, x), whole(call, y)
    parts = [
        Part(a.sources + b.sources, a.shape, a.positive and b.positive) for a, b in zip(x.parts, y.parts, strict=True)
    ]
    return Signal(tuple(parts), x.lead)
