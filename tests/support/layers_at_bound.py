"""Layers drawn at the bound of the proof of exact sums, and inputs at the ends of what is promised of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from make_nir import Node
from oracle import Array

from neurocuda.compiler.grids import InputGrid

MOST = 2**24
"""Steps that float32 holds."""


def whole_numbers(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Weights in steps: of one sign, alternating or mixed, small or of many bits, some rows or all but one zero."""
    most = int(draw.choice([1, 3, 127, 128, 255, 5000]))
    numbers = draw.integers(1, most + 1, shape)
    signs = draw.choice(["plus", "minus", "alternating", "mixed"])
    if signs == "alternating":
        numbers = numbers * np.where(np.arange(numbers.size).reshape(shape) % 2, -1, 1)
    elif signs == "mixed":
        numbers = numbers * draw.choice([-1, 0, 1], shape)
    else:
        numbers = numbers * (1 if signs == "plus" else -1)
    if draw.random() < 0.2:
        numbers[draw.integers(len(numbers))] = 0
    return np.asarray(numbers, np.float64)


def promise(draw: np.random.Generator, most: int) -> InputGrid:
    """An input of up to `most` steps either way."""
    step = 2.0 ** int(draw.choice([0, 0, -4, 7, -40, 30]))
    low, high = [(0, most), (-most, most), (-most, 0), (-(most // 2), most), (most, most)][draw.integers(5)]
    return InputGrid(step, low * step, high * step)


def convolution(draw: np.random.Generator, axes: int) -> tuple[Node, tuple[int, ...]]:
    """A Conv1d or Conv2d of any setting, and the shape of its input."""
    groups = int(draw.choice([1, 1, 2, 3]))
    per_group, out = int(draw.integers(1, 4)), groups * int(draw.integers(1, 3))
    kernel = draw.integers(1, 4, axes)
    dilation = draw.integers(1, 3, axes)
    padding: Any = draw.choice(["same", "valid", "numbers"])
    stride = draw.integers(1, 3, axes) if padding != "same" else np.ones(axes, int)
    padding = draw.integers(0, 3, axes) if padding == "numbers" else str(padding)
    size = [int(d * (k - 1) + draw.integers(1, 4)) for k, d in zip(kernel, dilation, strict=True)]
    weight = whole_numbers(draw, (out, per_group, *kernel))
    fields: Node = {"weight": weight, "bias": whole_numbers(draw, (out,)), "stride": stride, "dilation": dilation}
    if axes == 1:
        fields |= {"stride": int(stride[0]), "dilation": int(dilation[0])}
        padding = padding if isinstance(padding, str) else int(padding[0])
    node: Node = {"type": f"Conv{axes}d", **fields, "padding": padding, "groups": groups}
    return node, (groups * per_group, *size)


def layer(draw: np.random.Generator) -> tuple[Node, tuple[int, ...]]:
    """A layer or pool in steps of one, and the shape of its input."""
    kind = str(draw.choice(["Linear", "Affine", "matrices", "Conv1d", "Conv2d", "SumPool2d", "AvgPool2d"]))
    if kind.startswith("Conv"):
        return convolution(draw, int(kind[4]))
    if kind.endswith("Pool2d"):
        kernel = draw.integers(1, 4, 2)
        padding = np.array([draw.integers(0, k // 2 + 1) for k in kernel])
        size = [int(k + draw.integers(0, 3)) for k in kernel]
        return {"type": kind, "kernel_size": kernel, "stride": draw.integers(1, 3, 2), "padding": padding}, (2, *size)
    out, into = int(draw.integers(1, 5)), int(draw.integers(2, 40))
    leading = (2, 3) if kind == "matrices" else ()
    node: Node = {"type": kind, "weight": whole_numbers(draw, (*leading, out, into))}
    if kind != "Linear":
        node |= {"type": "Affine", "bias": whole_numbers(draw, (*leading, out))}
    return node, (*leading, into)


def at_the_bound(draw: np.random.Generator) -> tuple[Node, tuple[int, ...], InputGrid, Array, bool]:
    """A layer whose sums reach the bound, or nearly, or are far above it, as a node.

    With it the shape of its input, what that is promised to be, and a scale for each of its channels. Last, whether the
    largest sum of magnitudes is 2^24 steps or less, so that it must be found exact.
    """
    node, shape = layer(draw)
    finer = int(draw.choice([0, 0, 1, 3, 8]))  # the bias in steps of 2^-finer
    target = MOST + int(draw.choice([-1, 0, 0, 1, 2, -4096, MOST // 3, 6 * MOST]))
    if "weight" not in node:
        area = int(np.prod(node["kernel_size"]))
        most = min(MOST, max(1, target // area))
        return node, shape, promise(draw, most), np.ones(shape[0]), area * most <= MOST
    weight = node["weight"]
    rows = weight.reshape(weight.shape[0], -1) if node["type"].startswith("Conv") else weight.reshape(-1, shape[-1])
    sums = np.abs(rows).sum(1)
    room = target // 2**finer if "bias" in node else target
    most = int(max(1, min(MOST, room // max(1.0, sums.max()))))
    most = int(draw.choice([most, most, min(most, 255), min(most, 256), 1]))
    row = int(sums.argmax())
    if "bias" in node and draw.random() < 0.8:  # the bias takes what is left
        left = target - sums[row] * most * 2**finer
        node["bias"] = node["bias"].astype(np.float64) / 2**finer
        if 0 <= left <= MOST:
            node["bias"].reshape(-1)[row] = (left if draw.random() < 0.5 else -left) / 2**finer
    elif draw.random() < 0.8:  # or a weight; those of 24 bits are still float32
        place = int(draw.integers(rows.shape[1]))
        left = target // most - (sums[row] - abs(rows[row, place]))
        if 0 < left <= MOST:
            rows[row, place] = left
            node["weight"] = rows.reshape(weight.shape)
    scales: Array = np.ones(shape[0])
    x = promise(draw, most)
    exponents = draw.choice([0, 0, 3, -5, -90, 60], weight.shape[0] if weight.ndim == 2 or len(shape) > 1 else 1)
    if draw.random() < 0.5:  # a step of its own for each output channel
        exponents = exponents.reshape(-1, *[1] * (weight.ndim - 1))
        node["weight"] = node["weight"] * 2.0**exponents
        if "bias" in node:
            node["bias"] = node["bias"] * 2.0 ** exponents.reshape(-1, *[1] * (node["bias"].ndim - 1))
    if "bias" in node:
        node["bias"] = node["bias"] * x.step
    if draw.random() < 0.4 and (weight.ndim == 2 or node["type"].startswith("Conv")):  # and for each input channel
        scales = 2.0 ** draw.integers(-3, 4, shape[0])
        per_group = weight.shape[1]
        groups = shape[0] // per_group
        by_group = scales.reshape(groups, 1, per_group).repeat(weight.shape[0] // groups, 1).reshape(-1, per_group)
        node["weight"] = node["weight"] / by_group.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    node["weight"] = node["weight"].astype(np.float32)
    if "bias" in node:
        node["bias"] = node["bias"].astype(np.float32)
    by_row = node["type"].startswith("Conv") or weight.ndim == 2  # of a batch of matrices, channels share a grid
    return node, shape, x, scales, by_row and fits(node, x, scales)


def fits(node: Node, x: InputGrid, scales: Array) -> bool:
    """Whether every row's sum of magnitudes is within 2^24 of its own steps, above all subnormals; in whole numbers."""
    weight, bias = node["weight"].astype(np.float64), node.get("bias")
    if node["type"].startswith("Conv"):
        per_group = weight.shape[1]
        groups = scales.size // per_group
        by_group = scales.reshape(groups, 1, per_group).repeat(weight.shape[0] // groups, 1).reshape(-1, per_group)
        rows = (weight * by_group.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))).reshape(weight.shape[0], -1)
    else:
        rows = (weight * (scales if weight.ndim == 2 else 1)).reshape(-1, weight.shape[-1])
    biases = np.zeros(len(rows)) if bias is None else np.broadcast_to(bias.reshape(-1), len(rows))
    high = max(abs(x.low), abs(x.high)) / x.step
    for row, number in zip(rows, biases.astype(np.float64), strict=True):
        terms = [float(w) * x.step for w in row if w != 0]
        exponents = [lowest(t) for t in terms] + ([lowest(float(number))] if number else [])
        if not exponents:
            continue
        step = min(exponents)
        total = sum(abs(int(np.ldexp(t, -step))) for t in terms) * int(high) + abs(int(np.ldexp(number, -step)))
        largest = sum(abs(t) for t in terms) * high + abs(float(number))
        if total > MOST or step < -126 or largest >= 2.0**127:
            return False
    return True


def lowest(value: float) -> int:
    """The exponent of the lowest bit of a number."""
    top, bottom = value.as_integer_ratio()
    return (top & -top).bit_length() - 1 - (bottom.bit_length() - 1)


def extremes(draw: np.random.Generator, x: InputGrid, shape: tuple[int, ...]) -> Array:
    """Inputs on the promised grid: its ends, zero where it may be, and anything between."""
    low, high = int(x.low / x.step), int(x.high / x.step)
    ends = np.array([low, high, min(max(0, low), high)])
    values = np.where(draw.random(shape) < 0.7, draw.choice(ends, shape), draw.integers(low, high + 1, shape))
    return np.asarray(values * x.step, np.float32)


def weighted(*row: float, bias: float | None = None) -> Node:
    fields: Node = {"type": "Linear", "weight": np.array([row], np.float32)}
    return fields if bias is None else {**fields, "type": "Affine", "bias": np.array([bias], np.float32)}


def ones(kind: str, *shape: int, **fields: Any) -> Node:
    """An I or IF that adds up its input, with if_gain='r'."""
    node = {"type": kind, "r": np.ones(shape)}
    return {**node, **({"v_threshold": np.ones(shape), "v_reset": np.zeros(shape)} if kind == "IF" else {}), **fields}


def promise_of(draw: np.random.Generator, names: list[str]) -> dict[str, InputGrid]:
    """A grid for each input: of whole numbers, of sixteenths, below zero, of one number."""
    choices = [
        InputGrid(1.0, 0.0, 3.0),
        InputGrid(),
        InputGrid(2.0**-4, -1.0, 2.0),
        InputGrid(2.0**-4, 0.0, 0.9375),
        InputGrid(1.0, -5.0, -1.0),
        InputGrid(0.5, 1.5, 1.5),
        InputGrid(2.0**20, -(2.0**21), 2.0**22),
    ]
    return {name: choices[draw.integers(len(choices))] for name in names}
