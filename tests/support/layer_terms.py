"""The terms of the sums of a layer or pool, and their sums in many orders: float32 with or without FMA, or exact."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import oracle
from oracle import Array, Node


@dataclass(frozen=True)
class Terms:
    """The terms of N sums: signal and weight [N, terms], bias [N], float32.

    rows: row of the weight for each sum. shape: shape of the sums as an output, [batch, *shape].
    """

    x: Array
    weight: Array
    bias: Array
    rows: Array
    shape: tuple[int, ...]

    def exact(self) -> Array:
        """The exact sums, rounded once to float64; products are exact in float64."""
        products = self.x.astype(np.float64) * self.weight
        return np.array([math.fsum([*row, bias]) for row, bias in zip(products, self.bias, strict=True)])

    def in_float32(self, draw: np.random.Generator) -> Iterator[tuple[str, Array]]:
        """The sums in several orders, with the bias as one of the terms."""
        count = self.x.shape[1] + 1
        orders = {"ascending": np.arange(count), "permuted": draw.permutation(count)}
        products = self.x * self.weight
        orders["largest first"] = np.argsort(-np.abs(np.column_stack([products, self.bias])).max(0))
        for name, order in orders.items():
            yield f"{name}, one by one", self.one_by_one(order, fused=False)
            yield f"{name}, fused", self.one_by_one(order, fused=True)
        terms = np.column_stack([products, self.bias])[:, draw.permutation(count)]
        yield "in pairs", in_pairs(terms)
        yield "in 16 parts", in_pairs(np.stack([one_by_one(terms[:, part::16]) for part in range(16)], 1))

    def one_by_one(self, order: Sequence[int] | Array, *, fused: bool) -> Array:
        """A left fold in float32; fused: with fused multiply-add.

        A fused sum is rounded twice here, to float64 and to float32, which changes inexact sums only.
        """
        total = np.zeros(len(self.x), np.float32)
        x, weight = np.column_stack([self.x, np.ones_like(self.bias)]), np.column_stack([self.weight, self.bias])
        for term in order:
            if fused:
                total = (total + x[:, term].astype(np.float64) * weight[:, term]).astype(np.float32)
            else:
                total = total + x[:, term] * weight[:, term]
        return total


def one_by_one(terms: Array) -> Array:
    total = np.zeros(len(terms), np.float32)
    for term in terms.T:
        total = total + term
    return total


def in_pairs(terms: Array) -> Array:
    """Pairwise sums over the last axis."""
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        rest = terms[:, 2 * half :]
        terms = np.concatenate([terms[:, :half] + terms[:, half : 2 * half], rest], 1)
    return np.asarray(terms[:, 0])


def terms_of(node: Node, x: Array) -> Terms:
    """The terms of all outputs of a layer or pool for x [batch, *shape]; for an average pool, of its sum."""
    kind = node["type"]
    if kind in ("Linear", "Affine"):
        weight = np.asarray(node["weight"]).astype(np.float32)
        shape = (len(x), *weight.shape[:-1])
        bias = oracle.rounded(node["bias"], shape[1:]) if kind == "Affine" else np.zeros(shape[1:], np.float32)
        rows = np.arange(bias.size).reshape(bias.shape)
        return _flat(x[..., None, :], weight, bias, rows, shape)
    if kind.endswith("Pool2d"):
        kernel, stride, (py, px) = (oracle.pair(node[field]) for field in ("kernel_size", "stride", "padding"))
        seen = _windows(np.pad(x, [(0, 0), (0, 0), (py, py), (px, px)]), kernel, stride, (1, 1))
        zero = np.zeros(seen.shape[:-1], np.float32)
        return _flat(seen, np.ones_like(seen), zero, np.zeros(zero.shape, int), seen.shape[:-1])
    return _of_convolution(node, x)


def _of_convolution(node: Node, x: Array) -> Terms:
    weight = np.asarray(node["weight"]).astype(np.float32)
    flat = node["type"] == "Conv1d"
    if flat:
        weight, x = weight[:, :, None], x[:, :, None]
    groups = int(node["groups"])
    out, per_group, *kernel = weight.shape
    stride, dilation, padding = oracle.pair(node["stride"]), oracle.pair(node["dilation"]), node["padding"]
    if isinstance(padding, str):
        totals = [gap * (k - 1) * (padding == "same") for gap, k in zip(dilation, kernel, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(zeros, zeros) for zeros in oracle.pair(padding)]
    sides[0] = (0, 0) if flat else sides[0]
    seen = _windows(np.pad(x, [(0, 0), (0, 0), *sides]), (kernel[0], kernel[1]), stride, dilation)
    batch, _, high, wide, taps = seen.shape
    seen = np.moveaxis(seen.reshape(batch, groups, 1, per_group, high, wide, taps), 3, 5)
    seen = seen.reshape(batch, groups, 1, high, wide, per_group * taps)
    by_group = weight.reshape(groups, out // groups, 1, 1, -1)
    bias = oracle.rounded(node["bias"], (out,)).reshape(groups, -1, 1, 1)
    rows = np.arange(out).reshape(groups, -1, 1, 1)
    return _flat(seen, by_group, bias, rows, (batch, out, wide) if flat else (batch, out, high, wide))


def _windows(x: Array, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """The window of each output position and channel: [batch, channels, height, width, taps]."""
    return np.stack([seen for _, _, seen in oracle.windows(x, kernel, stride, dilation)], -1)


def _flat(x: Array, weight: Array, bias: Array, rows: Array, shape: tuple[int, ...]) -> Terms:
    """Broadcasts the operands and flattens all but the axis of terms, the last of x and weight."""
    x, weight = np.broadcast_arrays(x, weight)
    count = x.shape[-1]
    bias, rows = (np.broadcast_to(values, x.shape[:-1]).ravel() for values in (bias, rows))
    return Terms(x.reshape(-1, count), weight.reshape(-1, count), bias, rows, shape)
