"""int8 layers under gradients, autocast, compilation, tracing and other modes of torch: no bit changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from drawn import settings
from integer_networks import (
    library_of,
    needs_bytes,
    two_layers,
    whole_signal,
)
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from neurocuda import Executor
from neurocuda.ops import backends

native_operators = backends.is_usable(backends.backends()["cpu"])
pytestmark = [
    needs_bytes,
    pytest.mark.skipif(not native_operators, reason="no native operators"),
]


def warm() -> Executor:
    net = two_layers(chunk=8)
    with torch.no_grad():
        for _ in range(3):
            net(whole_signal())
    return net


def test_gradients_are_those_of_the_vendor_library() -> None:
    net, x = warm(), whole_signal().requires_grad_()
    expected = library_of(net)
    y = whole_signal().requires_grad_()
    found_, told_ = net(x)[0], expected(y)[0]
    assert torch.equal(found_, told_)
    for output_ in (found_, told_):
        (output_ * torch.arange(3.0)).sum().backward()
    for (name, a), (_, b) in zip(net.named_parameters(), expected.named_parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad), name
    assert x.grad is not None
    assert y.grad is not None
    assert torch.equal(x.grad, y.grad)
    with torch.no_grad():
        assert torch.equal(net(x.detach())[0], told_)


def test_a_compiled_network_gives_the_same_bits() -> None:
    net, x = two_layers(chunk=8), whole_signal()
    compiled = torch.compile(lambda t: net(t)[0], backend="aot_eager")
    with torch.no_grad():
        expected = net(x)[0]
        for _ in range(2):
            assert torch.equal(compiled(x), expected)
            assert torch.equal(net(x)[0], expected)


class Alone(torch.nn.Module):
    """A network whose output is a tensor and no state."""

    def __init__(self, net: Executor) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x)[0]


TRACED: dict[str, Callable[[Alone, Tensor], Any]] = {
    "torch.jit.trace": lambda net, x: torch.jit.trace(net, x, check_trace=False),
    "make_fx": lambda net, x: make_fx(lambda t: net(t))(x),
    "torch.export": lambda net, x: torch.export.export(net, (x,)).module(),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", TRACED)
def test_a_trace_is_valid_for_off_grid_inputs(how: str) -> None:
    for net in (two_layers(chunk=8), warm()):
        x, expected = whole_signal(), library_of(net)
        with torch.no_grad():
            traced = TRACED[how](Alone(net), x)
            for signal_ in (x, x + 0.5):
                assert torch.equal(traced(signal_), expected(signal_)[0])


def test_vmap_gives_the_same_bits() -> None:
    net, x = warm(), torch.stack([whole_signal(), whole_signal(8, 2) + 1]).to(torch.uint8)
    with torch.no_grad():
        found_ = torch.vmap(lambda t: net(t)[0])(x)
        assert torch.equal(found_, torch.stack([net(t)[0] for t in x]))


def test_autocast_gives_the_bits_of_the_vendor_library() -> None:
    net, x = warm(), whole_signal()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
            found_, expected = net(x)[0], library_of(net)(x)[0]
        assert torch.equal(found_, expected)
    with torch.no_grad():
        assert torch.equal(net(x)[0], library_of(net)(x)[0])


def test_other_modes_give_the_same_bits() -> None:
    x = whole_signal()
    for first in (torch.inference_mode, torch.no_grad):
        net = two_layers(chunk=8)
        with first():
            expected = net(x)[0]
        for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
            with mode():
                for _ in range(3):
                    assert torch.equal(net(x)[0], expected)
        parameters = dict(net.named_parameters())
        with torch.no_grad():
            again = torch.func.functional_call(net, parameters, (x,))[0]
            twice = torch.func.functional_call(net, {n: t * 2 for n, t in parameters.items()}, (x,))[0]
            assert torch.equal(again, expected)
            assert torch.equal(twice, library_doubled(net)(x)[0])
            assert torch.equal(net(x)[0], expected)


def library_doubled(net: Executor) -> Executor:
    other = library_of(net)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(2)
    return other


def test_settings_of_torch_change_no_bit() -> None:
    """Weights do not follow the default device, and their prepacked layout fits any number of threads."""
    net, expected = two_layers(), two_layers(force={})
    x = whole_signal()
    with torch.no_grad():
        y, into = expected(x)[0], torch.empty(8, 2, 3)
        with torch.device("meta"):
            assert torch.equal(net(x)[0], y)
        for threads in (1, 2, 1):
            with settings(threads):
                net(x, out=into)
                assert torch.equal(into, y)
