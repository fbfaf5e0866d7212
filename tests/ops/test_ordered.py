"""Native ordered layers against the reference: equal bits, on every route and instruction set."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from devices import on_each_device
from drawn import DTYPES, assert_equal, assert_same_gradients, counts, inputs, leaves, normal, settings
from make_nir import numbers
from torch import Tensor

from neurocuda.ops import backends, reference

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.sanitized,
    pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there"),
]

OPS = torch.ops.neurocuda
DENSITIES = (0.0, 0.001, 0.02, 0.3, 1.0, "real", "counts")
ROUTES = ("measured", "dense", "events")


class Linear(NamedTuple):
    """Sizes of a layer, and the rows that go through it."""

    rows: int
    batch: tuple[int, ...]
    into: int
    out: int


LINEAR = [
    Linear(1, (), 1, 1),
    Linear(5, (), 12, 38),
    Linear(70, (), 38, 7),
    Linear(67, (), 33, 65),
    Linear(9, (), 100, 130),
    Linear(130, (), 257, 10),
    Linear(3, (), 70, 200),
    Linear(3, (2,), 9, 20),
    Linear(7, (2, 3), 40, 4),
    Linear(1, (5,), 129, 17),
    Linear(2, (), 8, 2),
    Linear(4, (), 372, 151),
]


@on_each_device
@pytest.mark.parametrize("layer", LINEAR, ids=str)
def test_equal_bits_of_linear(layer: Linear) -> None:
    draw = numbers("linear", layer)
    shape = (*layer.batch, layer.out, layer.into)
    for density, dtype, bias_shape in itertools.product(
        DENSITIES, DTYPES, [None, (), (1,), (layer.out,), (*layer.batch, layer.out)]
    ):
        weight = normal(draw, *shape)
        bias = None if bias_shape is None else normal(draw, *bias_shape)
        x = inputs(draw, density, dtype, layer.rows, *layer.batch, layer.into)
        expected = reference.ordered_linear(x.float(), weight, bias)
        prepacked = OPS.ordered_linear_prepack(weight)
        for route, threads in itertools.product(ROUTES, (1, 2)):
            with settings(threads):
                found = OPS.ordered_linear(x, weight, bias, prepacked=prepacked if threads == 2 else None, route=route)
            assert_equal(found, expected, density, dtype, bias_shape, route, threads)
            counts["ordered_linear"] += 1


class Conv(NamedTuple):
    """A convolution and the size of its input."""

    into: int
    out: int
    kernel: tuple[int, ...]
    space: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    frames: int = 3

    def weight(self, draw: np.random.Generator) -> Tensor:
        return normal(draw, self.out, self.into // self.groups, *self.kernel)

    @property
    def flat_pads(self) -> list[int]:
        return [zeros for axis in self.pads for zeros in axis]


CONV = [
    Conv(2, 16, (5, 5), (34, 34), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    Conv(16, 16, (3, 3), (16, 16), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    Conv(16, 8, (3, 3), (8, 8), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, frames=9),
    Conv(4, 4, (2, 3), (7, 9), (2, 1), ((0, 2), (3, 1)), (1, 2), 4),
    Conv(6, 9, (3, 1), (11, 5), (3, 2), ((2, 0), (0, 0)), (2, 3), 3),
    Conv(3, 40, (3, 3), (5, 33), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    Conv(3, 5, (2, 4), (6, 13), (1, 3), ((1, 0), (2, 5)), (1, 1), 1),
    Conv(8, 8, (3, 3), (9, 9), (2, 2), ((1, 1), (1, 1)), (2, 2), 8),
    Conv(1, 1, (1, 1), (6, 6), (4, 4), ((0, 0), (0, 0)), (1, 1), 1),
    Conv(2, 5, (2, 2), (4, 5), (3, 3), ((3, 4), (5, 0)), (4, 3), 1),
    Conv(2, 33, (3, 3), (3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    Conv(4, 6, (4, 4), (9, 6), (6, 4), ((0, 0), (1, 1)), (1, 1), 2),
    Conv(2, 3, (7, 7), (2, 3), (1, 1), ((5, 3), (4, 4)), (1, 1), 1),
    Conv(3, 20, (3,), (23,), (2,), ((1, 0),), (3,), 1),
    Conv(4, 8, (4,), (17,), (3,), ((3, 3),), (2,), 2),
    Conv(5, 5, (1,), (129,), (1,), ((0, 0),), (1,), 5),
    Conv(1, 2, (9,), (151,), (4,), ((4, 8),), (6,), 1),
    Conv(8, 24, (3, 3), (6, 70), (2, 3), ((1, 2), (0, 4)), (1, 1), 2),
    Conv(2, 5, (9, 9), (12, 13), (1, 1), ((4, 4), (4, 4)), (1, 1), 1),
    Conv(40, 7, (1, 1), (5, 9), (1, 2), ((0, 0), (0, 0)), (3, 2), 1),
    Conv(2, 3, (1, 32), (3, 66), (1, 1), ((0, 0), (31, 16)), (1, 1), 1),
    Conv(11, 6, (4, 2), (7, 6), (1, 1), ((3, 0), (1, 0)), (2, 1), 1),
]


def expected_conv(x: Tensor, weight: Tensor, bias: Tensor | None, case: Conv) -> Tensor:
    return reference.ordered_conv(x, weight, bias, case.stride, case.pads, case.dilation, case.groups)


def found_conv(x: Tensor, weight: Tensor, bias: Tensor | None, case: Conv, **how: Any) -> Tensor:
    result: Tensor = OPS.ordered_conv(x, weight, bias, case.stride, case.flat_pads, case.dilation, case.groups, **how)
    return result


@on_each_device
@pytest.mark.parametrize("case", CONV, ids=str)
def test_equal_bits_of_conv(case: Conv) -> None:
    draw = numbers("conv", case)
    for density, dtype, bias_shape in itertools.product(DENSITIES, DTYPES, [None, (1,), (case.out,)]):
        weight = case.weight(draw)
        bias = None if bias_shape is None else normal(draw, *bias_shape)
        x = inputs(draw, density, dtype, case.frames, case.into, *case.space)
        expected = expected_conv(x.float(), weight, bias, case)
        prepacked = OPS.ordered_conv_prepack(weight, case.groups)
        for route, threads in itertools.product(ROUTES, (1, 2)):
            with settings(threads):
                found = found_conv(x, weight, bias, case, prepacked=prepacked if threads == 2 else None, route=route)
            assert_equal(found, expected, density, dtype, bias_shape, route, threads)
            counts["ordered_conv"] += 1


def test_many_frames_share_the_threads() -> None:
    case = CONV[1]._replace(frames=301)
    draw = numbers("frames")
    weight = case.weight(draw)
    x = inputs(draw, 0.05, torch.uint8, case.frames, case.into, *case.space)
    rows = inputs(draw, 0.05, torch.uint8, 5003, 64)
    matrix = normal(draw, 70, 64)
    for threads in (1, 2):
        with settings(threads):
            assert_equal(found_conv(x, weight, None, case), expected_conv(x.float(), weight, None, case))
            assert_equal(OPS.ordered_linear(rows, matrix), reference.ordered_linear(rows.float(), matrix, None))


@on_each_device
def test_inputs_of_any_strides() -> None:
    draw = numbers("strides")
    case = CONV[1]
    weight = case.weight(draw)
    x = inputs(draw, 0.3, torch.float32, 3, 16, 16, 16)
    variants = [
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3),
        torch.stack([x, x + 1], -1)[..., 0],
        x[:1].expand(3, -1, -1, -1),
        x[:0],
    ]
    for variant in variants:
        assert_equal(found_conv(variant, weight, None, case), expected_conv(variant, weight, None, case))
    matrix = normal(draw, 9, 16)
    for rows in (x[0, :, :, 3], x[0, 3].t(), x[0, 0, :1].expand(5, -1), x[0, 0, :0]):
        assert_equal(OPS.ordered_linear(rows, matrix), reference.ordered_linear(rows, matrix, None))
        transposed = matrix.t().contiguous().t()
        assert_equal(OPS.ordered_linear(rows, transposed), reference.ordered_linear(rows, matrix, None))
    assert_equal(OPS.ordered_linear(torch.ones(4, 0), torch.ones(3, 0)), torch.zeros(4, 3))


@on_each_device
def test_subnormals_are_kept() -> None:
    tiny = 1e-39
    draw = numbers("subnormal")
    weight = normal(draw, 20, 40)
    conv = CONV[1]
    kernel = conv.weight(draw)
    frames = inputs(draw, 0.1, torch.float32, 3, 16, 16, 16)
    for scale_x, scale_w in ((tiny, 1.0), (1.0, tiny), (1e-20, 1e-20), (1e30, tiny)):
        x = inputs(draw, 0.2, torch.float32, 9, 40) * scale_x
        w = weight * scale_w
        expected = reference.ordered_linear(x, w, None)
        expected_frames = expected_conv(frames * scale_x, kernel * scale_w, None, conv)
        assert expected.any(), "all zeros show nothing"
        scaled, scaled_kernel = frames * scale_x, kernel * scale_w
        for route, threads in itertools.product(ROUTES, (1, 2)):
            with settings(threads, flush=True):
                found = OPS.ordered_linear(x, w, route=route)
                found_frames = found_conv(scaled, scaled_kernel, None, conv, route=route)
            assert_equal(found, expected, scale_x, scale_w, route)
            assert_equal(found_frames, expected_frames, scale_x, scale_w, route)


@on_each_device
@pytest.mark.parametrize("layer", [Linear(5, (), 12, 38), Linear(3, (2, 3), 9, 4)], ids=str)
@pytest.mark.parametrize("bias_shape", [None, (1,), "full"])
def test_gradients_of_linear(layer: Linear, bias_shape: Any) -> None:
    draw = numbers("gradient", layer)
    shape = (*layer.batch, layer.out) if bias_shape == "full" else bias_shape
    values = (
        inputs(draw, 0.3, torch.float32, layer.rows, *layer.batch, layer.into),
        normal(draw, *layer.batch, layer.out, layer.into),
        None if shape is None else normal(draw, *shape),
    )
    ours, theirs = leaves(*values), leaves(*values)
    toward = normal(draw, layer.rows, *layer.batch, layer.out)
    (OPS.ordered_linear(*ours) * toward).sum().backward()
    (reference.ordered_linear(*theirs) * toward).sum().backward()
    assert_same_gradients(ours, theirs)


@on_each_device
@pytest.mark.parametrize("case", CONV, ids=str)
def test_gradients_of_conv(case: Conv) -> None:
    draw = numbers("gradient", case)
    for bias_shape in (None, (1,), (case.out,)):
        values = (
            inputs(draw, 0.3, torch.float32, case.frames, case.into, *case.space),
            case.weight(draw),
            None if bias_shape is None else normal(draw, *bias_shape),
        )
        ours, theirs = leaves(*values), leaves(*values)
        found = found_conv(*ours, case)
        toward = normal(draw, *found.shape)
        (found * toward).sum().backward()
        (expected_conv(*theirs, case) * toward).sum().backward()
        assert_same_gradients(ours, theirs)


@on_each_device
def test_gradients_of_half_precision_inputs() -> None:
    x = torch.rand(4, 9).half().requires_grad_()
    OPS.ordered_linear(x, torch.ones(3, 9)).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float16
    assert_equal(x.grad, torch.full((4, 9), 3.0).half())


def test_errors_name_the_argument() -> None:
    x, weight = torch.ones(2, 3), torch.ones(4, 3)
    frames, kernel = torch.ones(2, 4, 5, 6), torch.ones(6, 2, 3, 3)
    conv = OPS.ordered_conv
    for wrong, word in [
        (lambda: OPS.ordered_linear(torch.ones(2, 4), weight), "x: expected 3 input features"),
        (lambda: OPS.ordered_linear(x.double(), weight), "x: expected float32, float16"),
        (lambda: OPS.ordered_linear(x, weight.double()), "weight: expected float32"),
        (lambda: OPS.ordered_linear(x, weight, route="fast"), "route: expected measured"),
        (lambda: OPS.ordered_linear(x, weight, prepacked=torch.ones(1, 3, 4)[:, :2]), "prepacked: expected the result"),
        (lambda: conv(frames, kernel, None, [1, 1], [0, 0], [1, 1], 2), "pads: expected 4 numbers"),
        (lambda: conv(frames, kernel, None, [1, 0], [0] * 4, [1, 1], 2), "stride: expected 2 numbers from 1"),
        (lambda: conv(frames, kernel, None, [1, 1], [0] * 4, [1, 1], 1), "x: expected 2 channels"),
        (lambda: conv(frames, kernel, None, [1, 1], [0] * 4, [1, 1], 4), "groups: expected a divisor"),
        (lambda: conv(frames, kernel, None, [1, 1], [0] * 4, [3, 3], 2), "x: expected at least 7 elements"),
        (lambda: conv(frames, kernel, torch.ones(2, 3), [1, 1], [0] * 4, [1, 1], 2), "bias: expected float32"),
    ]:
        with pytest.raises(ValueError, match=word):
            wrong()
