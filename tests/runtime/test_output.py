"""`Executor.output`: the outputs of a call without its state. `recorded` compares those of random graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from raw_nodes import chain, node
from stateful import busy, drive, network
from torch import Tensor

from neurocuda import ArgumentError, Executor
from neurocuda.ops import backends

needs_compiled = pytest.mark.skipif(
    not backends.is_usable(backends.backends()["cpu"]), reason="no compiled operators, which have the pool"
)


def test_output_resumes_from_a_state_and_does_not_change_it() -> None:
    net, x = network(busy(), chunk=7), drive()
    with torch.no_grad():
        _, state = net(x)
        before = {name: tensor.clone() for name, tensor in state.tensors.items()}
        owed, _ = net(x, state)
        for call in range(5):
            assert torch.equal(net.output(x, state), owed), call
            assert torch.equal(net.output(x), net(x)[0]), call
        out = torch.empty_like(owed)
        assert net.output(x, state, out=out) is out
    assert torch.equal(out, owed)
    assert state.tensors.keys() == before.keys()
    assert all(torch.equal(state.tensors[name], tensor) for name, tensor in before.items())


def test_gradients_of_output_are_those_of_a_call() -> None:
    grads = []
    for way in (lambda net, x: net(x)[0], Executor.output):
        net, x = network(busy(), chunk=7, learn="tau_mem"), drive().requires_grad_()
        way(net, x).square().sum().backward()
        grads.append({"x": x.grad, **{name: p.grad for name, p in net.named_parameters()}})
    assert grads[0]["x"] is not None
    assert grads[0]["x"].any()
    for name, owed in grads[0].items():
        found = grads[1][name]
        assert (found is None) == (owed is None), name
        assert owed is None or torch.equal(found, owed), name


def test_output_refuses_what_a_call_refuses() -> None:
    net, x = network(busy()), drive()
    for given in ((x[..., :1],), (x, "a state"), (x, net(x)[1][0:1])):
        found = []
        for way in (net, net.output):
            with pytest.raises(ArgumentError) as refused:
                way(*given)
            found.append(str(refused.value))
        assert found[0] == found[1]


@needs_compiled
def test_a_compiled_output_gives_the_same_bits() -> None:
    net, x = network(busy()), drive()
    with torch.no_grad():
        found = torch.compile(net.output, fullgraph=True)(x)  # before any call
        assert torch.equal(found, net(x)[0])


@needs_compiled
@pytest.mark.parametrize("frozen", [False, True])
def test_the_state_takes_no_memory(frozen: bool) -> None:
    """Six populations of 1 MiB per sample and step: the state of 8 samples is 48 MiB, signals and tiles are less."""
    from neurocuda import _C

    wide = 2**18
    net = network(chain({f"n{k}": node("IF") for k in range(6)}, (wide,)), frozen=frozen)
    x = torch.ones(3, 8, wide)
    x[1] = 0.25

    def peak(way: Callable[[Tensor], object]) -> float:
        for _ in range(4):  # eager, captured, replayed
            way(x)
        gc.collect()
        _C.release_memory()
        way(x)
        found: float = (_C.memory()["free"] + _C.memory()["in_use"]) / 2**20
        return found

    with torch.no_grad():
        assert torch.equal(net.output(x), net(x)[0])
        left, alone = peak(net), peak(net.output)
    signal = x.nbytes / 2**20
    assert left >= 48 + signal
    assert alone <= 1.5 * signal, f"MiB: {alone} without a state, {left} with one"
