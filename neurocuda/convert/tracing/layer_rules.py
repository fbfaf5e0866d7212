"""Writes layers into the graph: convolutions, matrices, normalization, sums, ReLUs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neurocuda.convert.tracing.symbolic import BATCH, CHANNEL_AFFINE, STEPS, Call, Part, Value, fresh
from neurocuda.graph import Shape, align


def array(x: Tensor) -> np.ndarray:
    """A float64 copy of a tensor."""
    return x.detach().cpu().double().numpy().copy()


def numbers(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One number for each axis."""
    values = (value,) if isinstance(value, int) else tuple(int(n) for n in value)
    return values * count if len(values) == 1 else values


def frames(call: Call, x: Value, rank: int) -> Value:
    """x with its axes resolved. Refuses all but [B, ...] with `rank` axes behind the batch."""
    if len(x.lead) != 1:
        call.refuse("it takes frames [B, ...], found a signal over time", "wrap it in neurocuda.nn.PerStep")
    if len(x.shape) != rank:
        call.refuse(f"it takes {rank} axes behind the batch, found {x.shape}", "pass it a batch of samples")
    return call.true(x)


def conv(
    call: Call,
    x: Value,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    """A convolution with zeros around, of one or two axes by its weight."""
    rank = weight.dim() - 2
    x = frames(call, x, rank + 1)
    apply = functional.conv1d if rank == 1 else functional.conv2d
    kernel = torch.empty(weight.shape, device="meta", dtype=torch.float64)
    apply(x.meta, kernel, None, stride, padding, dilation, groups)  # torch's own errors
    fields: dict[str, Any] = {"stride": numbers(stride, rank), "dilation": numbers(dilation, rank)}
    fields["padding"] = _padding(padding, tuple(weight.shape[2:]), fields["dilation"])
    w = array(weight)
    b = np.zeros(len(w)) if bias is None else array(bias)
    if groups == 1:
        sources: list[str] = []
        for name, part, place in call.named(x):
            made = call.sketch.convolution(name, part, w[:, place], None if sources else b, **fields)
            sources += made.sources
        return fresh(x, [Part(tuple(sources), made.shape)])
    size = w.shape[1]
    if any(part.shape[0] % size for part in x.parts):
        x = call.whole(x)
    parts = []
    for name, part, place in call.named(x):
        rows = slice(place.start // size * len(w) // groups, place.stop // size * len(w) // groups)
        parts.append(call.sketch.convolution(name, part, w[rows], b[rows], part.shape[0] // size, **fields))
    return fresh(x, parts)


def _padding(padding: str | int | Sequence[int], kernel: Shape, dilation: Shape) -> tuple[int, ...] | str:
    if padding == "valid":
        return (0,) * len(kernel)
    if padding == "same":
        spare = [gap * (size - 1) for size, gap in zip(kernel, dilation, strict=True)]
        return "same" if any(n % 2 for n in spare) else tuple(n // 2 for n in spare)
    assert not isinstance(padding, str)
    return numbers(padding, len(kernel))


def linear(call: Call, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    """A matrix on the last axis, repeated along further axes."""
    x = call.true(x)
    functional.linear(x.meta, torch.empty(weight.shape, device="meta", dtype=torch.float64))  # torch's own errors
    w = array(weight)
    b = None if bias is None else array(bias)
    if len(x.shape) == 0:
        call.refuse("it takes features behind the batch, found none", "pass it a batch of samples [B, features]")
    if len(x.shape) > 1:
        return fresh(x, [_matrices(call, name, part, w, b) for name, part, _ in call.named(x)])
    sources: list[str] = []
    for name, part, place in call.named(x):
        sources += _matrices(call, name, part, w[:, place], None if sources else b).sources
    return fresh(x, [Part(tuple(sources), (len(w),))])


def _matrices(call: Call, name: str, part: Part, w: np.ndarray, b: np.ndarray | None) -> Part:
    axes = part.shape[:-1]
    own = {"weight": np.broadcast_to(w, (*axes, *w.shape)).copy()}
    if b is not None:
        own["bias"] = np.broadcast_to(b, (*axes, len(b))).copy()
    return call.sketch.add(name, "Linear" if b is None else "Affine", own, part)


def batch_norm(
    call: Call,
    x: Value,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """A normalization by running statistics, (x - mean) / sqrt(var + eps) * weight + bias."""
    if training or running_mean is None or running_var is None:
        call.refuse("its statistics are those of the batch", "track running statistics (track_running_stats=True)")
    if len(x.lead) != 1:
        call.refuse("it takes frames [B, ...], found a signal over time", "wrap it in neurocuda.nn.PerStep")
    functional.batch_norm(x.meta, *(torch.empty(running_mean.shape, device="meta", dtype=torch.float64),) * 2)
    scale = (1.0 if weight is None else array(weight)) / np.sqrt(array(running_var) + eps)
    shift = (0.0 if bias is None else array(bias)) - array(running_mean) * scale
    return affine(call, x, scale, shift)


def affine(call: Call, x: Value, scale: np.ndarray | float, shift: np.ndarray | float = 0.0) -> Value:
    """scale * x + shift, arrays that align with the first axes of x."""
    s, t = (align(np.asarray(values, np.float64), len(x.shape)) for values in (scale, shift))
    if s.size > 1 or t.size > 1:
        x = call.true(x)
    parts = []
    for node, part, rows in call.named(x):
        own = {}
        for name, values in (("scale", s), ("shift", t)):
            own[name] = values[rows] if values.ndim and values.shape[0] > 1 else values
            if values.size == 1:
                own[name] = values.reshape((1,) * len(part.shape))
        parts.append(call.sketch.add(node, CHANNEL_AFFINE, own, part))
    return replace(fresh(x, parts, x.shape), view=x.view)


def rectifier(call: Call, x: Value, cap: float | None = None) -> Value:
    """max(x, 0), at most `cap`."""
    own = {} if cap is None else {"cap": np.array(float(cap))}
    parts = [call.sketch.add(name, "ReLU", own, part) for name, part, _ in call.named(x)]
    return replace(fresh(x, parts, x.shape), view=x.view)


def add(call: Call, x: Value, y: Value) -> Value:
    """A sum, which needs no node: a node takes the sum of the edges into it."""
    if x.shape != y.shape or x.lead != y.lead:
        call.refuse(
            f"it adds signals of shapes {(*x.shape,)} and {(*y.shape,)}",
            "add signals of one shape, without broadcasting",
        )
    if [part.shape for part in x.parts] != [part.shape for part in y.parts]:
        x, y = call.true(x), call.true(y)
    if [part.shape for part in x.parts] != [part.shape for part in y.parts]:
        x, y = call.whole(x), call.whole(y)
    parts = [Part(a.sources + b.sources, a.shape) for a, b in zip(x.parts, y.parts, strict=True)]
    return replace(fresh(x, parts, x.shape), view=x.view or y.view)


def cat(call: Call, values: Sequence[Value], axis: int) -> Value:
    """A concatenation along the channels, the first axis behind the batch."""
    first = values[0]
    rank = len(first.lead) + len(first.shape)
    if any(value.lead != first.lead for value in values) or axis % rank != len(first.lead) or not first.shape:
        call.refuse(f"it concatenates along axis {axis}", "concatenate channels, the first axis behind the batch")
    torch.cat([value.meta for value in values], axis)  # torch's own errors
    return fresh(first, [part for value in values for part in call.true(value).parts])


def reshaped(call: Call, x: Value, shape: torch.Size) -> Value:
    """The same elements in the same order with other axes, of which the batch must stay the first."""
    total = math.prod(x.lead)
    leads = [x.lead, *([(total,)] if len(x.lead) == 2 else []), *_split(total)]
    lead = next((lead for lead in leads if tuple(shape[: len(lead)]) == lead), None)
    if lead is None:
        call.refuse("it merges the batch with other axes, or splits it", "keep the batch the first axis, x.flatten(1)")
    return replace(x, shape=tuple(shape[len(lead) :]), lead=lead, view=call.name)


def _split(total: int) -> list[Shape]:
    return [(STEPS, BATCH)] if total == STEPS * BATCH else []
