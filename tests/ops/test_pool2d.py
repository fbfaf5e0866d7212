"""Native pools against the reference: equal bits and gradients."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import pytest
import torch
from devices import on_each_device
from drawn import assert_equal, assert_same_gradients, inputs, normal, settings
from make_nir import numbers
from torch import Tensor

from neurocuda.ops import backends, native, reference

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.sanitized,
    pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there"),
]

OPS = torch.ops.neurocuda
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.bool)
NAMES = ("sum_pool2d", "avg_pool2d")


class Pool(NamedTuple):
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    x: tuple[int, int, int, int]

    @property
    def how(self) -> tuple[tuple[int, int], ...]:
        return self[:3]


CASES = [
    Pool((2, 2), (2, 2), (0, 0), (3, 16, 16, 16)),
    Pool((2, 2), (2, 2), (0, 0), (2, 5, 8, 8)),
    *[Pool((2, 2), (2, 2), (0, 0), (2, 3, 2 + n % 3, n)) for n in (2, 3, 5, 9, 14, 17, 23, 34, 38, 62, 63, 70)],
    Pool((2, 2), (2, 2), (1, 1), (2, 20, 7, 9)),
    Pool((2, 2), (1, 1), (0, 1), (2, 3, 6, 40)),
    Pool((3, 3), (2, 2), (1, 1), (2, 4, 15, 17)),
    Pool((3, 3), (1, 1), (1, 1), (2, 33, 8, 8)),
    Pool((3, 2), (3, 4), (0, 0), (3, 2, 9, 21)),
    Pool((1, 1), (1, 1), (0, 0), (2, 3, 4, 5)),
    Pool((1, 1), (3, 2), (0, 0), (2, 7, 10, 11)),
    Pool((4, 4), (4, 4), (0, 0), (2, 8, 8, 8)),
    Pool((8, 8), (8, 8), (0, 0), (3, 24, 8, 8)),
    Pool((7, 3), (2, 5), (3, 2), (1, 6, 13, 31)),
    Pool((5, 4), (1, 3), (6, 7), (2, 12, 3, 2)),  # windows in the padding alone
    Pool((2, 5), (2, 2), (0, 0), (1, 1, 12, 5)),
    Pool((3, 1), (3, 1), (0, 0), (4, 1, 30, 300)),
    Pool((2, 2), (2, 2), (0, 0), (0, 4, 6, 6)),
    Pool((2, 2), (2, 2), (0, 0), (1, 1, 130, 2050)),  # more than is converted at once
]
LAYOUTS = ("contiguous", "channels last", "sliced", "transposed", "constant")


def lay_out(x: Tensor, how: str) -> Tensor:
    """The same values, but for "constant", in memory of another order."""
    if how == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if how == "sliced":
        return torch.stack([x, x + x], -1)[..., 0]
    if how == "transposed":
        return x.mT.contiguous().mT
    return x[:1, :, :, :1].expand(x.shape) if how == "constant" and x.numel() else x


def bits(x: Tensor) -> Tensor:
    return x.view(torch.int32)


@on_each_device
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal_bits(case: Pool) -> None:
    count = 0
    draw = numbers("pools", case)
    for density, dtype, layout, name in itertools.product((0.1, "real", "counts"), DTYPES, LAYOUTS, NAMES):
        x = lay_out(inputs(draw, density, dtype, *case.x), layout)
        expected = getattr(reference, name)(x.float(), *case.how)
        for threads in (1, 2):
            with settings(threads):
                found = getattr(native, name)(x, *case.how)
            assert_equal(found, expected, density, dtype, layout, threads)
            assert_equal(bits(found), bits(expected), density, dtype, layout, threads)  # zeros by their sign too
            count += 1
            assert found.is_contiguous() or layout == "channels last"
            if layout == "channels last" and x.numel():
                assert found.is_contiguous(memory_format=torch.channels_last)
    print(f"{count} cases")


@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.parametrize("how", [((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1))], ids=str)
def test_many_images_share_the_threads(how: tuple[tuple[int, int], ...], layout: str) -> None:
    draw = numbers("images", how)
    x = lay_out(inputs(draw, 0.1, torch.float32, 67, 16, 33, 32), layout)
    for name, threads in itertools.product(NAMES, (1, 2, 3)):
        with settings(threads):
            assert_equal(getattr(native, name)(x, *how), getattr(reference, name)(x, *how), name, threads)


@on_each_device
def test_values_that_are_not_numbers() -> None:
    draw = numbers("values")
    values = torch.tensor([0.0, -0.0, 1.0, torch.nan, torch.inf, -torch.inf, 3e38, -3e38])
    x = values[torch.from_numpy(draw.integers(0, len(values), (4, 8, 12, 40)))]
    for case, name, layout in itertools.product(CASES, NAMES, LAYOUTS[:2]):
        if min(x.shape[2:]) < max(case.kernel):
            continue
        found = getattr(native, name)(lay_out(x, layout), *case.how)
        expected = getattr(reference, name)(x, *case.how)
        assert torch.equal(found.isnan(), expected.isnan()), case
        assert_equal(bits(found[~found.isnan()]), bits(expected[~found.isnan()]), case)


@on_each_device
@pytest.mark.parametrize("threads", [1, 2])
def test_subnormal_numbers_are_kept(threads: int) -> None:
    x = normal(numbers("subnormal"), 64, 16, 16, 16) * 1e-40
    for case, name in itertools.product((CASES[0], CASES[16]), NAMES):
        expected = getattr(reference, name)(x, *case.how)
        assert 0 < expected.abs().max() < torch.finfo(torch.float32).tiny
        for layout in LAYOUTS[:2]:
            with settings(threads, flush=True):
                found = getattr(native, name)(lay_out(x, layout), *case.how)
            assert torch.equal(bits(found), bits(expected)), (case, name, layout)


@on_each_device
@pytest.mark.parametrize("layout", LAYOUTS[:3])
@pytest.mark.parametrize("case", [case for case in CASES if case.x[0]], ids=str)
def test_gradients(case: Pool, layout: str) -> None:
    draw = numbers("gradients", case)
    for name, dtype in itertools.product(NAMES, (torch.float32, torch.float16)):
        x = lay_out(inputs(draw, "real", dtype, *case.x), layout)
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        found = getattr(native, name)(ours, *case.how)
        expected = getattr(reference, name)(theirs.float(), *case.how)
        weight = normal(draw, *expected.shape)
        (found * weight).sum().backward()
        (expected * weight).sum().backward()
        assert_same_gradients([ours], [theirs])
        assert ours.grad is not None
        assert ours.grad.dtype == dtype


def test_gradients_of_gradients() -> None:
    x = torch.rand(1, 2, 5, 6, requires_grad=True)
    (first,) = torch.autograd.grad(native.avg_pool2d(x, (2, 3), (1, 2), (1, 0)).pow(3).sum(), x, create_graph=True)
    (wanted,) = torch.autograd.grad(reference.avg_pool2d(x, (2, 3), (1, 2), (1, 0)).pow(3).sum(), x, create_graph=True)
    found, expected = (torch.autograd.grad(value.pow(2).sum(), x)[0] for value in (first, wanted))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_what_torch_asks_of_an_operator(name: str) -> None:
    op, how = getattr(OPS, name), ((2, 3), (2, 1), (1, 0))
    for x in (torch.rand(2, 3, 6, 7), lay_out(torch.rand(2, 3, 6, 7), "channels last")):
        torch.library.opcheck(op.default, (x.clone().requires_grad_(), *how))
        torch.library.opcheck(op.default, (x > 0.5, *how))
    meta = op(torch.empty(2, 3, 6, 7, device="meta").to(memory_format=torch.channels_last), *how)
    assert meta.shape == (2, 3, 4, 5)
    assert meta.is_contiguous(memory_format=torch.channels_last)


def test_errors_name_the_argument() -> None:
    x = torch.ones(2, 3, 6, 7)
    good: dict[str, Any] = {"x": x, "kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}
    for wrong, words in [
        ({"x": torch.ones(3, 6, 7)}, r"expected x \[N, C, H, W\], found \[3, 6, 7\]"),
        ({"x": x.double()}, "expected x of float32, float16, bfloat16, uint8 or bool, found float64"),
        ({"kernel": (2, 0)}, r"expected kernel of two numbers from 1, found \[2, 0\]"),
        ({"kernel": (2, 2, 2)}, "expected kernel of two numbers"),
        ({"stride": (0, 1)}, "expected stride of two numbers from 1"),
        ({"padding": (0, -1)}, "expected padding of two numbers from 0"),
        ({"kernel": (7, 2)}, "expected x of at least 7 rows with padding, found 6"),
        ({"kernel": (2, 12), "padding": (0, 2)}, "expected x of at least 12 columns with padding, found 11"),
    ]:
        for name in NAMES:
            with pytest.raises(ValueError, match=f"{name}: .*{words}"):
                getattr(OPS, name)(**(good | wrong))
