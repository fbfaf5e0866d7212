"""Layers of the vendor library: float32 on a GPU too, unless TF32 is enabled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import nir
import numpy as np
import pytest
import torch
from torch.nn import functional

import neurocuda
from neurocuda import Executor
from neurocuda.ops import vendor


@pytest.fixture
def _flags() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def enable_by_precision() -> None:
    torch.set_float32_matmul_precision("high")


def enable_by_flag() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True


@pytest.mark.usefixtures("_flags")
@pytest.mark.parametrize("enable", [enable_by_precision, enable_by_flag])
def test_tf32_is_off_by_default(enable: Callable[[], None]) -> None:
    assert torch.backends.cudnn.allow_tf32  # torch's default for convolutions
    assert not vendor.tf32()
    enable()
    assert vendor.tf32()


@pytest.mark.parametrize(("axes", "groups"), [(1, 1), (2, 1), (2, 2)])
def test_the_bits_are_those_of_torch(axes: int, groups: int) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, *(9,) * axes, generator=g, requires_grad=True)
    weight = torch.randn(6, 4 // groups, *(3,) * axes, generator=g, requires_grad=True)
    bias = torch.randn(6, generator=g, requires_grad=True)
    convolve = functional.conv1d if axes == 1 else functional.conv2d
    owed = convolve(x, weight, bias, 2, 1, 1, groups)
    found = vendor._convolution_with_flags(x, weight, bias, [2] * axes, [1] * axes, [1] * axes, groups)
    assert torch.equal(found, owed)
    gradients = [torch.autograd.grad(y.square().sum(), (x, weight, bias)) for y in (found, owed)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@torch.no_grad()
def test_exact_layers_do_not_use_winograd() -> None:
    """Without oneDNN, torch uses Winograd for this shape, which rounds."""
    g = torch.Generator().manual_seed(1)
    weight = torch.randint(-127, 128, (64, 64, 3, 3), generator=g).numpy() / 256
    conv = nir.Conv2d((32, 32), weight, 1, 1, 1, 1, np.zeros(64))
    ends = {"input": nir.Input(np.array([64, 32, 32])), "output": nir.Output(np.array([64, 32, 32]))}
    graph = nir.NIRGraph({**ends, "conv": conv}, [("input", "conv"), ("conv", "output")])
    net = Executor(neurocuda.from_nir(graph), force={"conv": "library"})
    x = torch.randint(0, 256, (1, 20, 64, 32, 32), generator=g).float()
    owed = functional.conv2d(x[0].double(), torch.from_numpy(weight).double(), padding=1)
    with torch.backends.mkldnn.flags(enabled=False):
        assert vendor.may_transform(x)
        assert torch.equal(net(x)[0][0].double(), owed)


@pytest.mark.cuda
def test_gpu_convolutions_are_float32() -> None:
    """TF32 would be wrong by some 1e-4 of the largest result."""
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(8, 64, 32, 32, generator=g), torch.randn(64, 64, 3, 3, generator=g)
    owed = functional.conv2d(x.double(), weight.double())
    found = vendor.convolution(x.cuda(), weight.cuda(), torch.zeros(64).cuda(), [1, 1], [0, 0], [1, 1], 1).cpu()
    assert (found - owed).abs().max() < 1e-5 * owed.abs().max()
    assert torch.backends.cudnn.allow_tf32
