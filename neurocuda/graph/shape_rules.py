"""The output shape of each primitive, from its parameters and its input shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from neurocuda.graph.fields import Shape, Value, parameter

Parameters = Mapping[str, Value]
ShapeRule = Callable[[Parameters, Shape], Shape]
"""Computes the output shape from the parameters and the input shape. Raises `Misfit`."""


class Misfit(Exception):
    """An input shape that a node does not accept: the field in conflict, what was expected, what was found."""

    def __init__(self, field: str | None, expected: str, found: str) -> None:
        super().__init__(field, expected, found)
        self.field, self.expected, self.found = field, expected, found


def same(parameters: Parameters, shape: Shape) -> Shape:
    """The shape of the input; every array among the parameters must align with it."""
    for name in sorted(parameters):
        array = parameters[name]
        if isinstance(array, np.ndarray) and not fits(array, shape):
            expected = f"a shape whose axes are those of the signal {shape}, from the first, or 1"
            raise Misfit(name, expected, f"shape {array.shape}")
    return shape


def fits(array: np.ndarray, shape: Shape) -> bool:
    """Whether a parameter aligns with a signal of `shape` without enlarging it."""
    if array.size == 1:
        return True
    pairs = zip(array.shape, shape, strict=False)
    return array.ndim <= len(shape) and all(own in (1, size) for own, size in pairs)


def matrix(parameters: Parameters, shape: Shape) -> Shape:
    weight = parameter(parameters, "weight", np.ndarray)
    result = (*weight.shape[:-2], weight.shape[-2])
    # The bias of a transposed weight fits its last axis.
    _check_bias(parameters, result, (*weight.shape[:-2], weight.shape[-1]))
    return result


def convolution(parameters: Parameters, shape: Shape) -> Shape:
    weight, groups = parameter(parameters, "weight", np.ndarray), parameter(parameters, "groups", int)
    _require_axes(shape, "(channels, length)" if weight.ndim == 3 else "(channels, height, width)")
    channels = weight.shape[1] * groups
    if shape[0] != channels:
        expected = f"an input of {channels} channels (weight {weight.shape}, groups {groups})"
        transposed = "; the weight is transposed?" if groups == 1 and shape[0] == weight.shape[0] else ""
        raise Misfit("weight", expected, f"shape {shape}{transposed}")
    if weight.shape[0] % groups:
        raise Misfit("groups", f"a divisor of {weight.shape[0]} output channels", str(groups))
    _check_bias(parameters, (weight.shape[0],))
    stride, dilation = (parameter(parameters, name, tuple) for name in ("stride", "dilation"))
    padding = parameters["padding"]
    if padding == "same":
        if set(stride) != {1}:
            raise Misfit("padding", "stride 1 with 'same'", f"stride {stride}")
        return (weight.shape[0], *shape[1:])
    pads = padding if isinstance(padding, tuple) else (0,) * len(stride)
    return (weight.shape[0], *_windows(shape[1:], weight.shape[2:], stride, pads, dilation, "weight"))


def pool(parameters: Parameters, shape: Shape) -> Shape:
    _require_axes(shape, "(channels, height, width)")
    kernel, stride, padding = (parameter(parameters, name, tuple) for name in ("kernel_size", "stride", "padding"))
    return (shape[0], *_windows(shape[1:], kernel, stride, padding, (1, 1), "kernel_size"))


def flatten(parameters: Parameters, shape: Shape) -> Shape:
    rank = len(shape)
    ends = []
    for name in ("start_dim", "end_dim"):
        axis = parameter(parameters, name, int)
        if not -max(rank, 1) <= axis < max(rank, 1):
            raise Misfit(name, f"an axis of the signal {shape}, batch not counted", str(axis))
        ends.append(axis % max(rank, 1))
    start, end = ends
    if start > end:
        raise Misfit("start_dim", f"an axis not after end_dim (axis {end})", f"axis {start}")
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


def _require_axes(shape: Shape, axes: str) -> None:
    if len(shape) != len(axes.split(",")):
        raise Misfit(None, f"an input {axes}", f"shape {shape}")


def _windows(size: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, field: str) -> Shape:
    """The number of windows along each axis, rounded down as in torch."""
    counts = []
    for n, k, step, pad, gap in zip(size, kernel, stride, padding, dilation, strict=True):
        room = n + 2 * pad - gap * (k - 1) - 1
        if room < 0:
            raise Misfit(field, f"a window of at most {n + 2 * pad} elements", f"{gap * (k - 1) + 1}")
        counts.append(room // step + 1)
    return tuple(counts)


def _check_bias(parameters: Parameters, shape: Shape, of_transposed: Shape | None = None) -> None:
    bias = parameters.get("bias")
    if isinstance(bias, np.ndarray) and bias.size != 1 and bias.shape != shape:
        transposed = "; the weight is transposed?" if bias.shape == of_transposed else ""
        raise Misfit("bias", f"shape {shape} or a single value", f"shape {bias.shape}{transposed}")
