"""Frozen networks: the same bits as with parameters, from constants that are stored once."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from captured import captured
from comparison import assert_equal, by_output, graph_of, order_of, recorded, tensors, told
from devices import networks_on_each_device
from hypothesis import given
from integer_networks import (
    COUNTS,
    conv,
    fires,
    needs_bytes,
    same,
    spiking_graph,
    two_layers,
    whole_signal,
)
from make_nir import Node, graph, input_, numbers, output
from stateful import busy, drive, network
from strategies import Case, cases
from torch import Tensor

import neurocuda
from neurocuda import ArgumentError, Discretization, Executor
from neurocuda.convert.export import current
from neurocuda.ops import backends, vendor

needs_compiled = pytest.mark.skipif(
    not backends.is_usable(backends.backends()["cpu"]), reason="no compiled operators, which keep forms of their own"
)
needs_library = pytest.mark.skipif(
    not vendor.can_prepack(), reason="no oneDNN, which has a form of its own for weights"
)


def convolutions(**fields: Any) -> Node:
    """Two convolutions with integer weights, wide enough for the vendor library to prepack them."""
    draw = numbers("frozen", *map(str, fields.items()))
    into, x = 8 * fields.get("groups", 1), torch.zeros(1, 8 * fields.get("groups", 1), 9, 9)
    nodes = {}
    for name, out, channels in (("a", 24, into), ("b", 32, 24)):
        settings = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, **(fields if name == "a" else {})}
        weight = draw.integers(-3, 4, (out, channels // settings["groups"], 3, 3)).astype("f4")
        bias = draw.integers(-3, 4, settings.pop("biases", out)).astype("f4")
        nodes[name] = {"type": "Conv2d", "weight": weight, "bias": bias, **settings}
        x = torch.nn.functional.conv2d(x, torch.from_numpy(weight), None, *(to_torch(v) for v in settings.values()))
    return graph("input>a a>b b>output", input=input_(into, 9, 9), output=output(*x.shape[1:]), **nodes)


def to_torch(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


@networks_on_each_device
@given(cases())
def test_frozen_equals_the_oracle(case: Case) -> None:
    net = Executor(graph_of(case.raw), Discretization(**case.discretization), frozen=True)
    expected = told(case.expected)
    for _ in range(3):  # eager, captured, replayed
        assert_equal(recorded(net, case.x), expected, order_of(net), f"{net}\n{net.graph}")


@needs_bytes
@pytest.mark.parametrize("seed", range(12))
def test_frozen_int8_layers_equal_those_of_parameters(seed: int) -> None:
    raw = spiking_graph(numbers("frozen integers", seed))
    free = Executor(graph_of(raw), Discretization(**COUNTS))
    force = {p.node: "integer" for p in free.certificate.proofs if p.integers is not None and p.type != "SumPool2d"}
    shape = free.graph.nodes["input"].output_shape
    x = torch.from_numpy(numbers("frozen input", seed).integers(0, 3, (9, 3, *shape)).astype("f4"))
    off = x + 0.25
    nets = [Executor(free.graph, free.discretization, force=force, chunk=4, frozen=frozen) for frozen in (False, True)]
    with torch.no_grad():
        for given_ in (x, x, x, off, x, x[:4], x[:4], x[:4], off[:4], x[:4]):
            (owed, state), (found, own) = (net(given_) for net in nets)
            assert same(found, owed), f"{nets[1]}\n{nets[1].graph}"
            assert all(torch.equal(own.tensors[name], t) for name, t in state.tensors.items())


def test_nothing_can_be_trained_or_changed() -> None:
    net = network(busy(), frozen=True)
    assert not [*net.parameters(), *net.buffers(), *net.modules()][1:]
    assert net.state_dict() == {}
    assert net.parameter_name("w_in", "weight") is None
    assert ", frozen\n" in repr(net)
    with pytest.raises(RuntimeError, match="w_in:weight"):
        net.load_state_dict(network(busy()).state_dict())
    with pytest.raises(ArgumentError, match=r"learn: expected nothing to learn in a frozen network, found \['tau'\]"):
        network(busy(), frozen=True, learn="tau")
    graph_, owed = current(net), network(busy()).graph
    for name, node in owed.nodes.items():
        for field, value in node.parameters.items():
            assert np.array_equal(graph_.nodes[name].parameters[field], value), (name, field)


@needs_bytes
@needs_compiled
def test_a_layer_has_its_weights_once() -> None:
    net = two_layers(frozen=True, chunk=8)
    constants = net._store.constants
    assert constants is not None
    whole = [*net._int8._weights.values()]
    assert whole, "laid out when it was loaded"
    assert all(weight.prepacked is not None and weight.values is None for weight in whole)
    assert not {"a:weight", "b:weight"} & set(constants._parameters)
    with torch.no_grad():
        for _ in range(4):
            net(whole_signal())
        assert not net._calls._live
        assert not net._calls._folded
        assert not {"a:weight", "b:weight"} & set(constants._parameters)
        net(whole_signal() + 0.5)  # off-grid; the second layer does not depend on it
    assert {"a:weight", "b:weight"} & set(constants._parameters) == {"a:weight"}


@needs_library
@needs_compiled
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stride": 2, "padding": 0},
        {"padding": "same", "dilation": 2},
        {"padding": np.array([2, 0]), "stride": np.array([1, 3])},
        {"groups": 4},
        {"biases": 1},
    ],
    ids=str,
)
def test_library_convolutions_with_weights_laid_out(fields: dict[str, Any]) -> None:
    """The weights are integers, so that sums are exact."""
    wide, force = graph_of(convolutions(**fields)), {"a": "library", "b": "library"}
    free, net = (Executor(wide, force=force, frozen=frozen) for frozen in (False, True))
    assert set(net._store._prepacked) == {"a", "b"}
    draw = numbers("frozen frames")
    held = net._store.constants._parameters  # type: ignore[union-attr]
    with torch.no_grad():
        for steps, batch in ((3, 2), (3, 2), (3, 2), (1, 1), (5, 7), (0, 2), (2, 0)):
            shape = (steps, batch, *net.graph.nodes["input"].output_shape)
            x = torch.from_numpy(draw.integers(0, 3, shape).astype("f4"))
            assert batch == 0 or not {"a:weight", "b:weight"} & set(held)
            assert torch.equal(net(x)[0], free(x)[0]), (steps, batch)


def test_inputs_have_the_gradients_of_a_network_with_parameters() -> None:
    grads = []
    for frozen in (False, True):
        net, x = network(busy(), frozen=frozen), drive().requires_grad_()
        y, state = net(x)
        assert y.requires_grad
        (y.square().sum() + sum(t.sum() for t in state.tensors.values())).backward()
        grads.append(x.grad)
    assert grads[0] is not None
    assert grads[0].any()
    assert torch.equal(grads[0], grads[1])
    y, _ = network(busy(), frozen=True)(drive())
    assert not y.requires_grad
    net = two_layers(frozen=True)
    x = whole_signal().requires_grad_()
    net(x)[0].sum().backward()
    other, owed = two_layers(), whole_signal().requires_grad_()
    other(owed)[0].sum().backward()
    assert torch.equal(x.grad, owed.grad)


def pickled(net: Executor) -> Executor:
    result: Executor = pickle.loads(pickle.dumps(net))
    return result


def saved(net: Executor) -> Executor:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    result: Executor = torch.load(file, weights_only=False)
    return result


CONVERSIONS: dict[str, Callable[[Executor], Executor]] = {
    "half": lambda net: net.half(),
    "double": lambda net: net.double(),
    "bfloat16": lambda net: net.to(torch.bfloat16),
    "channels last": lambda net: net.to(memory_format=torch.channels_last),
    "to_empty": lambda net: net.to_empty(device="cpu"),
    "cpu": lambda net: net.cpu(),
    "a copy": copy.deepcopy,
    "pickle": pickled,
    "torch.save": saved,
}


@pytest.mark.parametrize(("name", "warm"), [*product(CONVERSIONS, (False, True))])
def test_no_conversion_changes_a_value(name: str, warm: bool) -> None:
    wide = graph_of(
        graph(
            "input>a a>n n>b b>output",
            input=input_(3, 8, 8),
            a=conv(20, 3),
            n=fires(20, 8, 8),
            b=conv(17, 20),
            output=output(17, 8, 8),
        )
    )
    layers = Executor(wide, Discretization(**COUNTS), frozen=True, force={"a": "library", "b": "library"})
    for net, x in (
        (two_layers(frozen=True), whole_signal()),
        (network(busy(), frozen=True), drive()),
        (layers, torch.ones(3, 2, 3, 8, 8)),
    ):
        with torch.no_grad():
            owed = net(x)[0].clone()
            for _ in range(3 * warm):
                net(x)
            after = CONVERSIONS[name](net.to("cpu") if name == "to_empty" else net)
            for _ in range(3):
                assert torch.equal(after.to(x.device)(x)[0], owed)
            assert torch.equal(after(x + 0.5)[0], net(x + 0.5)[0])


@needs_compiled
def test_a_gpu_looks_at_no_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a simulated GPU."""
    free, net = network(busy(), chunk=7), network(busy(), chunk=7, frozen=True)
    with torch.no_grad():
        owed = free(drive())[0]
        device = captured(net, monkeypatch, cached=True)
        for _ in range(5):
            assert torch.equal(net(drive())[0], owed)
        operands = net._operands.speculate(net, torch.device("cpu"))
    assert device.replays > 0
    assert not operands.guards.current


class Tensors(torch.nn.Module):
    def __init__(self, net: Executor) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)[0]
        return y


@needs_compiled
def test_compiled_and_exported_with_lazy_weights() -> None:
    wide, x = graph_of(convolutions()), torch.ones(2, 3, 8, 9, 9)
    with torch.no_grad():
        owed = Executor(wide)(x)[0]
        for way in ("compiled", "exported"):
            net = Tensors(Executor(wide, frozen=True, force={"a": "library", "b": "library"}))
            made = torch.compile(net, fullgraph=True) if way == "compiled" else torch.export.export(net, (x,)).module()
            assert torch.equal(made(x), owed), way


def test_a_file_is_loaded_frozen(tmp_path: Any) -> None:
    raw = network(busy()).graph
    path = tmp_path / "busy.nir"
    neurocuda.write(raw, path)
    free, net = neurocuda.load(path), neurocuda.load(path, frozen=True)
    x = {free.graph.inputs[0]: drive().cpu().numpy()}
    with torch.no_grad():
        owed, found = (by_output(n, n(tensors(x))[0]) for n in (free, net))
    assert all(torch.equal(found[name], value) for name, value in owed.items())
