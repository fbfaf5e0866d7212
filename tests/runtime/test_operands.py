"""Operands that are cached between calls: the guards, and what happens when they fail."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from captured import captured
from stateful import busy, drive, network
from torch import Tensor, nn

from neurocuda import Executor
from neurocuda.ops import backends
from neurocuda.runtime import nir_executor
from neurocuda.runtime.guards import Speculation
from neurocuda.runtime.operands import OperandBuilder, OperandCache, Operands

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


def test_gradients_reach_learnt_parameters() -> None:
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


def assert_right(net: Executor, calls: int = 4) -> None:
    """Calls of one step and of several, from rest and from a state, have the bits of the reference backend."""
    for x in (drive(), drive()[:1, :1]):
        with backends.use_backend("reference"):
            owed, state = net(x)
            owed_after, _ = net(x, state)
        for call in range(calls):
            assert torch.equal(net(x)[0], owed), call
            assert torch.equal(net(x, state)[0], owed_after), call


class Twice(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return 2 * value


def parametrized(net: Executor, name: str) -> list[Tensor]:
    nn.utils.parametrize.register_parametrization(net, name, Twice())
    return [*net.parametrizations.parameters()]  # type: ignore[union-attr]


def pruned(net: Executor, name: str) -> list[Tensor]:
    nn.utils.prune.l1_unstructured(net, name, amount=0.3)  # type: ignore[no-untyped-call]
    return [net._parameters[f"{name}_orig"]]  # type: ignore[list-item]


@pytest.mark.parametrize("compute", [parametrized, pruned])
@pytest.mark.parametrize("field", ["w_in:weight", "a:v_threshold"])
def test_a_parameter_that_is_computed_from_others_is_not_cached(
    compute: Callable[[Executor, str], list[Tensor]], field: str
) -> None:
    net = network(busy(), learn="v_threshold")
    assert_right(net)
    for value in compute(net, field):
        for _ in range(2):
            assert_right(net)
            value.mul_(1.25)
    assert_right(net)


def test_parameters_that_cannot_be_built_from_are_refused_at_every_call() -> None:
    net = network(busy())
    assert_right(net)
    before = net._parameters["w_in:weight"]
    net._parameters["w_in:weight"] = nn.Parameter(torch.zeros(1))
    for _ in range(3):
        with pytest.raises(ValueError, match="weight"):
            net(drive())
    net._parameters["w_in:weight"] = before
    assert_right(net)


def test_a_parameter_moves_and_is_edited_later() -> None:
    net = network(busy())
    assert_right(net)
    for value in net.state_dict().values():
        value.data = value.data.clone()
    for parameter in net.parameters():
        parameter.data = parameter.data.clone()  # the same bits: what was captured holds
        assert_right(net)
        parameter.mul_(1.25)
        assert_right(net)


def test_storages_that_multiprocessing_moves() -> None:
    net = network(busy())
    assert_right(net)
    for parameter in net.parameters():
        parameter.untyped_storage().share_memory_()
    filler = [torch.full((n,), 3.0) for n in range(1, 64)]  # where the parameters were
    assert_right(net)
    for parameter in net.parameters():
        parameter.mul_(1.25)
    assert_right(net)
    del filler


def test_buffers_of_float32_are_operands_themselves() -> None:
    net = network(busy())
    for factor in (1.25, 1.5):
        for name, value in net._buffers.items():
            if value is not None and value.is_floating_point():
                one = value.flatten()[:1].float() * factor
                net._buffers[name] = one.reshape((1,) * value.dim()).expand(value.shape)
        assert_right(net)
        for value in net._buffers.values():
            if value is not None and value.is_floating_point():
                value[..., :1].mul_(factor)
        assert_right(net)


def test_an_edit_while_operands_are_built_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by another thread, which a build lets run between its operators."""
    net = network(busy())
    build = OperandBuilder.build

    def edited(self: OperandBuilder, network: nn.Module, *how: Any, **more: Any) -> Operands:
        operands = build(self, network, *how, **more)
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.mul_(1.25)
        return operands

    for assign in (False, True):
        if assign:
            net.load_state_dict({key: value.clone() for key, value in net.state_dict().items()}, assign=True)
        with monkeypatch.context() as patch:
            patch.setattr(OperandBuilder, "build", edited)
            net(drive())
        assert_up_to_date(net, cached(net))
        assert_right(net)


@pytest.mark.parametrize("again", [False, True])
def test_another_thread_never_sees_operands_of_the_parameters_before(
    monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """A call of another thread, while this one builds for parameters that replaced others."""
    net = network(busy())
    assert_right(net)
    net.load_state_dict({key: value * 1.25 for key, value in net.state_dict().items()}, assign=True)
    build, seen = OperandBuilder.build, []

    def interrupted(self: OperandBuilder, network: nn.Module, *how: Any, **more: Any) -> Operands:
        if not seen:
            seen.append(cached)
            assert_up_to_date(net, cached(net))
            if again:  # the other thread replaces them once more
                net.load_state_dict({key: value * 1.25 for key, value in net.state_dict().items()}, assign=True)
        return build(self, network, *how, **more)

    with monkeypatch.context() as patch:
        patch.setattr(OperandBuilder, "build", interrupted)
        for _ in range(3):
            net(drive())
    assert seen
    assert_right(net)


def test_a_captured_call_belongs_to_the_parameters_that_it_was_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread replaces the parameters while the call runs."""
    net = network(busy())
    speculate = OperandCache.speculate

    def replaced(self: OperandCache, network: nn.Module, device: torch.device) -> Speculation[Operands]:
        found = speculate(self, network, device)
        values = {key: value * 1.25 for key, value in network.state_dict().items()}
        network.load_state_dict(values, assign=True)
        return found

    for calls in range(1, 4):
        for _ in range(calls):
            net(drive())
        with monkeypatch.context() as patch:
            patch.setattr(OperandCache, "speculate", replaced)
            net._calls.forget_guarded()
            net(drive())
        assert_right(net)


def test_threads_call_after_an_edit() -> None:
    net = network(busy())
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            for edit in range(40):
                if edit % 2:
                    net.load_state_dict({key: value * 1.05 for key, value in net.state_dict().items()}, assign=True)
                for value in net.state_dict().values():
                    if value.is_floating_point():
                        value.mul_(1.05)
                with backends.use_backend("reference"):
                    owed = net(drive())[0]
                for found in pool.map(lambda _: torch.no_grad()(net.output)(drive()), range(8)):
                    assert torch.equal(found, owed), edit
    finally:
        sys.setswitchinterval(before)
