"""What GPUs keep between calls, the CPU playing the GPU: what is asked, and what follows from the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from captured import captured
from stateful import busy, drive, network
from torch import Tensor

from neurocuda import Executor
from neurocuda.ops import backends
from neurocuda.runtime import operands
from neurocuda.runtime.guards import Looks, Supposed
from neurocuda.runtime.operands import Derived, Kept

pytestmark = pytest.mark.skipif(
    not backends.is_usable(backends.backends()["cpu"]), reason="no compiled operators, which do the asking"
)


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(operands, "alone_on", lambda device, inputs: not torch.is_grad_enabled())
    with torch.no_grad():
        yield


def supposed(net: Executor) -> tuple[list[Tensor], bool]:
    found = net._derived.supposed([drive()], net._derived_from)
    assert found.value is not None
    return found.value.tensors(), found.so()


def assert_up_to_date(net: Executor, kept: list[Tensor]) -> None:
    owed = Derived(net.graph, net.discretization)._computed(net._derived_from(), torch.device("cpu")).tensors()
    for place, (found, value) in enumerate(zip(kept, owed, strict=True)):
        assert torch.equal(found, value), (place, found, value)


def test_an_edit_of_any_parameter_is_seen() -> None:
    net = network(busy())
    before, so = supposed(net)
    assert so
    weights = {net.parameter_name(name, "weight") for name in net.schedule.packed_layers}
    edited = {key for key, value in net.state_dict().items() if value.dtype == torch.float64 or key in weights}
    assert len(weights) == 2
    assert len(edited) > 10
    for key in sorted(edited):
        net.state_dict()[key].mul_(1.5).add_(2**-14)
        _, so = supposed(net)
        assert not so, key
        after, so = supposed(net)
        assert so, key
        assert_up_to_date(net, after)
        assert [t.data_ptr() for t in after] == [t.data_ptr() for t in before], "a graph may read them"


def test_parameters_of_another_shape_are_kept_anew() -> None:
    net = network(busy())
    supposed(net)
    for key, value in net._buffers.items():
        if value is not None and value.dtype == torch.float64 and value.numel() == 1:
            net._buffers[key] = value.expand(*value.shape[:-1], 4).clone() * 1.25
    _, so = supposed(net)
    assert not so
    after, so = supposed(net)
    assert so
    assert_up_to_date(net, after)


def test_a_call_with_edited_parameters_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net, same = network(busy(), chunk=7), network(busy(), chunk=7)
    device = captured(net, monkeypatch)
    same.cuda_graph = False
    for _ in range(3):
        net(drive())
    assert device.replays == 2
    for key, value in net.state_dict().items():
        value.mul_(1.25)
        same.state_dict()[key].mul_(1.25)
        with monkeypatch.context() as patch:
            patch.setattr(operands, "alone_on", lambda device, inputs: False)
            owed, owed_state = same(drive())
        found, state = net(drive())
        assert torch.equal(found, owed), key
        assert all(torch.equal(state.tensors[name], t) for name, t in owed_state.tensors.items()), key
    assert device.captures == 1


def test_gradients_reach_what_is_learnt() -> None:
    net = network(busy(), learn="tau")
    net(drive())
    with torch.enable_grad():
        net(drive())[0].sum().backward()
    learnt = [p for name, p in net.named_parameters() if name.endswith(":tau")]
    assert learnt
    assert all(p.grad is not None for p in learnt)


def test_a_look_that_never_comes_out_ends_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it refuses four times, the results are those of a call that supposes nothing, then and later."""
    net, same = network(busy(), chunk=7), network(busy(), chunk=7)
    captured(net, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(operands, "alone_on", lambda device, inputs: False)
        owed, owed_state = same(drive())
    tried = []

    def never(self: Derived, given: list[Tensor], origins: Any) -> Supposed[Kept | None]:
        wrong = Derived._computed(self, origins(), torch.device("cpu"))
        for t in wrong.tensors():
            t.fill_(3.0)
        tried.append(wrong)
        return Supposed(wrong, lambda: False, Looks())

    monkeypatch.setattr(Derived, "supposed", never)
    for call in range(4):
        found, state = net(drive())
        assert torch.equal(found, owed), call
        assert all(torch.equal(state.tensors[name], t) for name, t in owed_state.tensors.items()), call
    assert len(tried) >= 4
