"""torch.compile and torch.export capture the network in one graph and change no bit."""

from __future__ import annotations

import pytest
import torch
from places import ROOT
from torch import Tensor, nn

import neurocuda
from neurocuda.ops import backends

pytestmark = pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there")

DIGITS = ROOT / "examples" / "digits" / "digits.nir"


class Tensors(nn.Module):
    """The network with its state as plain tensors, as an exported program returns it."""

    def __init__(self, net: neurocuda.Executor) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y, state = self.net(x)
        return y, state.tensors


def digits(frozen: bool) -> tuple[Tensors, Tensor, Tensor]:
    """The network, an input to compile it with, and another input."""
    x, another = torch.rand(2, 4, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 16
    return Tensors(neurocuda.load(DIGITS, frozen=frozen)), x, another


def assert_same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert torch.equal(found[0], expected[0]), f"output: found {found[0]}, expected {expected[0]}"
    assert found[1].keys() == expected[1].keys()
    for name, values in expected[1].items():
        assert torch.equal(found[1][name], values), f"{name}: found {found[1][name]}, expected {values}"


@pytest.mark.parametrize("frozen", [False, True])
def test_a_compiled_network_gives_the_same_bits(frozen: bool) -> None:
    net, *inputs = digits(frozen)
    compiled = torch.compile(net, fullgraph=True)
    with torch.no_grad():
        for x in inputs:
            found, expected = compiled(x), net(x)  # compiled first: before any call
            assert expected[0].any()
            assert_same(found, expected)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_exported_network_gives_the_same_bits(frozen: bool) -> None:
    net, *inputs = digits(frozen)
    with torch.no_grad():
        exported = torch.export.export(net, (inputs[0],)).module()
        for x in inputs:
            assert_same(exported(x), net(x))
