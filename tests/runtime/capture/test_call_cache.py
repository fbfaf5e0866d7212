"""Replays of cached calls on a simulated GPU: when the guards allow one, and when they do not."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from captured import captured
from raw_nodes import Raw, chain, node
from stateful import busy, drive, network
from torch import Tensor

import neurocuda
from neurocuda import Executor, State
from neurocuda.errors import ArgumentError
from neurocuda.ops import backends

pytestmark = pytest.mark.skipif(
    not backends.is_usable(backends.backends()["cpu"]), reason="no compiled operators, which do the asking"
)


class LookedAt(Exception):
    """A call was not replayed."""


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Executor:
    """A network that can only replay cached calls from a state, with and without a returned state."""
    net = network(busy(), chunk=7)
    captured(net, monkeypatch, cached=True)
    with torch.no_grad():
        state = None
        for _ in range(4):
            _, before = net(drive(), state)
            net.output(drive(), state)
            state = before

    def run(*given: Any, **how: Any) -> None:
        raise LookedAt

    monkeypatch.setattr(net, "_run", run)
    return net


def a_state(scale: float = 1.0) -> State:
    with torch.no_grad():
        _, state = network(busy(), chunk=7)(drive(seed=3))
    return State({name: t * scale for name, t in state.tensors.items()})


@torch.no_grad()
def test_other_values_are_replayed(again: Executor) -> None:
    for seed in range(3):
        x, state = drive(seed=seed), a_state(1.0 + seed)
        y, after = again(x, state)
        owed, owed_state = network(busy(), chunk=7)(x, state)
        assert torch.equal(y, owed), seed
        assert torch.equal(again.output(x, state), owed), seed
        assert after.tensors.keys() == owed_state.tensors.keys()
        assert all(torch.equal(t, owed_state.tensors[name]) for name, t in after.tensors.items()), seed


@torch.no_grad()
def test_a_call_from_rest_is_replayed(again: Executor) -> None:
    owed, owed_state = network(busy(), chunk=7)(drive())
    y, after = again(drive())
    assert torch.equal(y, owed)
    assert torch.equal(again.output(drive()), owed)
    assert all(torch.equal(t, owed_state.tensors[name]) for name, t in after.tensors.items())


def test_threads_take_turns(again: Executor) -> None:
    wrong: list[int] = []

    def calls(seed: int) -> None:
        with torch.no_grad():
            x, state = drive(seed=seed), a_state(1.0 + seed)
            owed, _ = network(busy(), chunk=7)(x, state)
            wrong.extend(seed for _ in range(40) if not torch.equal(again(x, state)[0], owed))

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(calls, seed) for seed in range(6)]:
            done.result()
    assert not wrong


class Own(Tensor):
    """A tensor subclass, which may override operators."""


def _half(net: Executor) -> None:
    key = next(iter(net._parameters))
    parameter = net._parameters[key]
    assert parameter is not None
    parameter.data = parameter.data.half()


OTHERWISE: dict[str, Callable[[Executor], object]] = {
    "fewer steps": lambda net: net(drive(steps=29), a_state()),
    "another type": lambda net: net(drive().double().to(torch.float16), a_state()),
    "other strides": lambda net: net(drive(batch=30, steps=5).transpose(0, 1), a_state()),
    "not finite": lambda net: net(drive() * torch.inf, a_state()),
    "a dict": lambda net: net({"in": drive()}, a_state()),
    "another state": lambda net: net(drive(), State({**a_state().tensors, "more": drive()})),
    "less state": lambda net: net(drive(), State(dict([*a_state().tensors.items()][1:]))),
    "memory for it": lambda net: net(drive(), a_state(), out=torch.empty(30, 5, 4)),
    "a subclass": lambda net: net(drive().as_subclass(Own), a_state()),
    "an edit": lambda net: (net.state_dict()["a:tau_mem"].mul_(2), net(drive(), a_state())),
    "a weight elsewhere": lambda net: (net.load_state_dict(network(busy()).state_dict(), assign=True),
                                       net(drive(), a_state())),
    "a narrower weight": lambda net: (_half(net), net(drive(), a_state())),
    "moved": lambda net: net.to("cpu")(drive(), a_state()),
    "another stream": lambda net: (setattr(net._calls._device, "stream", 2), net(drive(), a_state())),
    "no graphs": lambda net: (setattr(net, "cuda_graph", False), net(drive(), a_state())),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERWISE)
def test_other_calls_are_not_replayed(again: Executor, name: str) -> None:
    with torch.no_grad(), pytest.raises(LookedAt):
        OTHERWISE[name](again)


@torch.no_grad()
def test_cuda_graphs_can_be_turned_off_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(busy(), chunk=7)
    device = captured(net, monkeypatch, cached=True)
    for graphs, replays in ((False, 0), (True, 1)):
        net.cuda_graph = graphs
        for _ in range(3):
            owed, _ = net(drive())
        assert device.replays == replays + graphs
    assert torch.equal(net(drive())[0], owed)


def alone() -> Raw:
    """A network of one population."""
    return chain({"lif": node("LIF", tau=np.array([2e-4, 3e-4, 5e-4]), v_threshold=0.5)})


@torch.no_grad()
def test_a_single_operator_is_replayed_without_python(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(alone())
    device = captured(net, monkeypatch, cached=True)
    called: list[int] = []
    whole = net._run_steps
    monkeypatch.setattr(net, "_run_steps", lambda *a, **how: (called.append(1), whole(*a, **how))[1])
    for given, first in ((None, 0), (network(alone())(drive(seed=3))[1], 10)):
        for call in range(6):
            x = drive(seed=first + call)
            y, state = net(x, given)
            owed, owed_state = network(alone())(x, given)
            assert torch.equal(y, owed), call
            assert torch.equal(state.tensors["lif.v"], owed_state.tensors["lif.v"]), call
            assert y.untyped_storage().nbytes() == y.nbytes
        assert len(called) == 2, "once by itself, and once to be recorded"
        called.clear()
    assert device.captures == 0
    net.state_dict()["lif:tau"].mul_(2)
    other = network(alone())
    other.state_dict()["lif:tau"].mul_(2)
    assert torch.equal(net(x, given)[0], other(x, given)[0])
    with pytest.raises(ArgumentError, match="finite"):
        net(x * torch.nan, given)


def test_observed_calls_are_not_replayed(again: Executor) -> None:
    x, state = drive(), a_state()
    with pytest.raises(LookedAt):
        again(x, state)  # gradients
    with torch.no_grad():
        with pytest.raises(LookedAt), neurocuda.use_backend("reference"):
            again(x, state)
        with pytest.raises(LookedAt), torch.autocast("cpu", dtype=torch.bfloat16):
            again(x, state)
        again(x, state)
