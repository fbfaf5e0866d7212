"""Checks of tensor values: the same results on every device, and asynchronous on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captured import captured
from stateful import busy, drive, network
from torch import Tensor

from neurocuda.errors import ArgumentError
from neurocuda.ops import backends, native, reference

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there"),
]

SIZES = (0, 1, 2, 7, 8, 255, 257, 5000, 100_003)


def places(x: Tensor) -> list[int]:
    return sorted({0, x.numel() // 2, x.numel() - 1}) if x.numel() else []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_nonfinite_element_is_found(dtype: torch.dtype, device: torch.device) -> None:
    for size in SIZES:
        x = torch.linspace(-3, 3, size).to(device, dtype)
        x[: size // 2] = torch.finfo(dtype).max
        assert native.all_finite(x)
        assert size == 0 or reference.all_finite(x)
        for place in places(x):
            for wrong in (math.nan, math.inf, -math.inf):
                y = x.clone()
                y[place] = wrong
                assert not native.all_finite(y), (size, place, wrong)
                assert not native.all_finite(y[place:]), (size, place, wrong)
                assert native.all_finite(y[place + 1 :])


def test_strides_are_respected(device: torch.device) -> None:
    x = torch.ones(6, 7, 8, device=device)
    x[:, :, 3] = math.nan
    assert not native.all_finite(x.transpose(0, 2))
    assert native.all_finite(x[..., ::2])
    assert not native.all_finite(x[..., 1::2])
    assert not native.all_finite(x[0, 0, 3].expand(5, 5))


def test_several_signals_are_checked_at_once(device: torch.device) -> None:
    fine = [torch.ones(n, device=device) for n in (1, 30, 400)]
    assert native.start_finite_check(fine)()
    assert native.start_finite_check([])()
    wrong = torch.full((3,), math.inf, device=device)
    for place in range(4):
        assert not native.start_finite_check([*fine[:place], wrong, *fine[place:]])()
    checks = [native.start_finite_check([x]) for x in (*fine, wrong, *fine)]
    assert [check() for check in checks] == [True, True, True, False, True, True, True]
    assert [checks[3]() for _ in range(3)] == [False] * 3, "the result can be read again"
    native.start_finite_check([wrong])  # never awaited


def test_bits_are_compared_at_any_alignment(device: torch.device) -> None:
    from neurocuda import _C

    for size in SIZES:
        for dtype in (torch.float32, torch.uint8, torch.float64):
            memory = torch.arange(size + 3).to(device, dtype)
            for start in (0, 1, 3):
                a = memory[start:]
                assert _C.same_bits([a, a], [a.clone(), a])
                for place in places(a):
                    b = a.clone()
                    b[place] += 1
                    assert not _C.same_bits([a], [b]), (size, dtype, start, place)
                    assert not _C.same_bits([a] * 70 + [a], [a.clone() for _ in range(70)] + [b])
    zero, nan = torch.zeros(3, device=device), torch.full((3,), math.nan, device=device)
    assert not _C.same_bits([zero], [-zero]), "equal, but other bits"
    assert _C.same_bits([nan], [nan.clone()])
    assert not _C.same_bits([zero], [zero.double()])
    assert not _C.same_bits([zero], [zero[:2]])
    assert not _C.same_bits([zero], [])
    square = torch.rand(3, 3, device=device)
    assert _C.same_bits([square.T], [square.clone().T])
    assert not _C.same_bits([square.T], [square.T.contiguous()])


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_network_refuses_nonfinite_inputs(gradients: bool, graph: bool, device: torch.device) -> None:
    net, x = network(busy(), chunk=7), drive(20)
    net.cuda_graph = graph
    with torch.set_grad_enabled(gradients):
        for _ in range(3):
            owed, state = net(x)
        wrong = x.clone()
        wrong[11, 2, 1] = -math.inf
        for given in (None, state):
            with pytest.raises(ArgumentError, match=r"input 'in': expected finite numbers, found -inf at.*11, 2, 1"):
                net(wrong, given)
        assert torch.equal(net(x)[0], owed)


def test_the_check_is_awaited_after_all_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mocked GPU: the network starts the check, launches all kernels, and then waits for the result."""
    order: list[str] = []
    net = network(busy())
    graphs = captured(net, monkeypatch)
    replay = graphs.replay

    def start(signals: list[Tensor]) -> Callable[[], bool]:
        order.append("started")
        return lambda: order.append("waited") is None

    def launch(*how: Any) -> None:
        order.append("launched")
        replay(*how)

    monkeypatch.setattr(native, "start_finite_check", start)
    monkeypatch.setattr(graphs, "replay", launch)
    with torch.no_grad():
        for _ in range(3):
            net.run(drive(20))
    assert order[-3:] == ["started", "launched", "waited"]
