"""Operands that are cached between calls: the guards, and what happens when they fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from captured import captured
from stateful import busy, drive, network
from torch import Tensor, nn

from neurocuda import Executor
from neurocuda.ops import backends
from neurocuda.runtime import nir_executor
from neurocuda.runtime.guards import Speculation
from neurocuda.runtime.operands import OperandCache, Operands

pytestmark = pytest.mark.skipif(
    not backends.is_usable(backends.backends()["cpu"]), reason="no native operators, which check guards"
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def cached(net: Executor) -> Operands:
    return net._operands.speculate(net, CPU).value


def assert_up_to_date(net: Executor, found: Operands) -> None:
    owed = net._builder.build(net, CPU, cached=True).derived
    for place, (a, b) in enumerate(zip(found.derived, owed, strict=True)):
        assert torch.equal(a, b), (place, a, b)


def test_an_edit_of_any_parameter_is_seen() -> None:
    net = network(busy())
    before = cached(net)
    places = [t.data_ptr() for t in before.derived]
    weights = {net.parameter_name(name, "weight") for name in net.schedule.packed_layers}
    edited = {key for key, value in net.state_dict().items() if value.dtype == torch.float64 or key in weights}
    assert len(weights) == 2
    assert len(edited) > 10
    for key in sorted(edited):
        stale = [t.clone() for t in before.derived]
        net.state_dict()[key].mul_(1.5).add_(2**-14)
        after = cached(net)
        assert after is before
        assert any(not torch.equal(a, b) for a, b in zip(after.derived, stale, strict=True)), key
        assert_up_to_date(net, after)
        assert [t.data_ptr() for t in after.derived] == places, "programs and graphs may read them"


@pytest.mark.parametrize("edit", ["shape", "dtype", "object"])
def test_parameters_of_another_shape_or_dtype_are_cached_anew(edit: str) -> None:
    net = network(busy())
    before = cached(net)
    if edit == "shape":
        for value in net._buffers.values():
            if value is not None and value.dtype == torch.float64 and value.numel() == 1:
                value.data = value.expand(*value.shape[:-1], 4).clone() * 1.25
    elif edit == "dtype":
        for parameter in net.parameters():
            parameter.data = parameter.data.half()
    else:
        net.load_state_dict({key: value * 1.25 for key, value in net.state_dict().items()}, assign=True)
    after = cached(net)
    assert after is not before
    assert_up_to_date(net, after)
    assert all(weight.dtype == torch.float32 for weight in after.weights.values())
    assert cached(net) is after


@pytest.mark.parametrize("graphs", [False, True])
def test_a_call_with_edited_parameters_is_made_again(monkeypatch: pytest.MonkeyPatch, graphs: bool) -> None:
    """On a CPU and on a simulated GPU, whose CUDA graph reads the operands in place."""
    net, same = network(busy(), chunk=7), network(busy(), chunk=7)
    device = captured(net, monkeypatch, cached=True) if graphs else None
    for _ in range(3):
        net(drive())
    for key, value in net.state_dict().items():
        value.mul_(1.25)
        same.state_dict()[key].mul_(1.25)
        with monkeypatch.context() as patch:
            patch.setattr(nir_executor, "unobserved", lambda given: False)
            owed, owed_state = same(drive())
        found, state = net(drive())
        assert torch.equal(found, owed), key
        assert all(torch.equal(state.tensors[name], t) for name, t in owed_state.tensors.items()), key
    assert device is None or device.captures == 1


def test_gradients_reach_what_is_learnt() -> None:
    net = network(busy(), learn="tau")
    net(drive())
    with torch.enable_grad():
        net(drive())[0].sum().backward()
    learnt = [p for name, p in net.named_parameters() if name.endswith(":tau")]
    assert learnt
    assert all(p.grad is not None for p in learnt)


def test_guards_that_always_fail_end_speculation(monkeypatch: pytest.MonkeyPatch) -> None:
    """After four attempts the call runs without any speculative value, then and later."""
    net, same = network(busy(), chunk=7), network(busy(), chunk=7)
    owed, owed_state = same(drive())
    tried = []

    def never(self: OperandCache, network: nn.Module, device: torch.device) -> Speculation[Operands]:
        wrong = self._builder.build(network, device, cached=True)
        for t in wrong.derived:
            t.fill_(3.0)
        tried.append(wrong)
        return Speculation(wrong, lambda: False)

    monkeypatch.setattr(OperandCache, "speculate", never)
    captured(net, monkeypatch, cached=True)
    for call in range(4):
        found, state = net(drive())
        assert torch.equal(found, owed), call
        assert all(torch.equal(state.tensors[name], t) for name, t in owed_state.tensors.items()), call
    assert len(tried) == 8, "two calls; then a graph that computes its operands is replayed"


def test_operands_of_a_frozen_network_have_no_guards() -> None:
    net: Executor = network(busy(), frozen=True)
    found: list[Tensor] = [*net._operands.speculate(net, CPU).guards.current]
    assert not found
