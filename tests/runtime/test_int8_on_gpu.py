"""int8 layers on a GPU (`-m cuda`); without one, their guards, with the CPU in the place of the GPU."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from comparison import graph_of
from integer_networks import conv, fc, fires, grid_weight, same, two_layers, whole_signal
from make_nir import graph, input_, output
from torch import Tensor

from neurocuda import Executor
from neurocuda.ops import backends
from neurocuda.runtime import int8_layers

pytestmark = pytest.mark.emulated

C: Any = importlib.import_module("neurocuda._C") if backends.is_usable(backends.backends()["cpu"]) else None


def residual(**how: Any) -> Executor:
    """Convolutions of more than the limit, a residual sum of two branches, one that is grouped, and a classifier."""
    nodes = {
        "a": conv(64, 3, stride=1),
        "na": fires(64, 16, 16),
        "b": conv(64, 64),
        "nb": fires(64, 16, 16, key=1),
        "c": conv(64, 64, key=2),
        "d": conv(64, 64, kernel=1, key=3),
        "nc": fires(64, 16, 16, key=2),
        "e": {**conv(64, 64, key=4), "weight": grid_weight(64, 32, 3, 3, key=4), "groups": 2},
        "ne": fires(64, 16, 16, key=3),
        "flat": {"type": "Flatten", "start_dim": 0, "end_dim": -1},
        "f": fc(40, 64 * 16 * 16, key=5),
    }
    edges = "input>a a>na na>b b>nb nb>c na>d d>nc c>nc nc>e e>ne ne>flat flat>f f>output"
    force = how.pop("force", dict.fromkeys("abcdef", "integer"))
    return Executor(graph_of(graph(edges, input=input_(3, 16, 16), output=output(40), **nodes)), force=force, **how)


def events(steps: int = 5, batch: int = 3, most: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(steps)
    return torch.randint(0, most, (steps, batch, 3, 16, 16), generator=g).float()


def ordered(net: Executor, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The same with the parameters as they are now, summed in the defined order on the CPU."""
    force = {entry.node.name: "ordered" for entry in net.schedule.integer_layers}
    other = Executor(net.graph, net.discretization, force=force)
    other.load_state_dict({name: value.cpu() for name, value in net.state_dict().items()})
    y, state = other(x.cpu().float())
    assert isinstance(y, Tensor)
    return y, dict(state.tensors)


def assert_as_ordered(net: Executor, x: Tensor) -> None:
    y, state = net(x.cuda())
    owed, owed_state = ordered(net, x)
    assert same(y.cpu(), owed)
    assert same({name: value.cpu() for name, value in state.tensors.items()}, owed_state)


@pytest.fixture
def convolved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The output channels of every convolution of bytes that is launched, or captured."""
    found: list[int] = []
    kernel = C.integer_conv

    def noted(x: Tensor, weight: Tensor, scale: Tensor, *rest: Any) -> Tensor:
        found.append(len(scale))
        result: Tensor = kernel(x, weight, scale, *rest)
        return result

    monkeypatch.setattr(C, "integer_conv", noted)
    return found


@pytest.mark.cuda
@pytest.mark.parametrize("cuda_graph", [True, False])
@torch.no_grad()
def test_gpu_integers_are_the_bits_of_the_defined_order(cuda_graph: bool, convolved: list[int]) -> None:
    net = residual(chunk=3).to("cuda")
    net.cuda_graph = cuda_graph
    for turn in range(4):
        assert_as_ordered(net, events(most=3 + turn))
    assert len(convolved) % 5 == 0, "all but the grouped one"
    assert set(convolved) == {64, 40}
    assert cuda_graph is (len(convolved) == 3 * 2 * 5), "two chunks; a call, and twice for the capture"
    for x in (events().to(torch.uint8), events(most=2).bool(), events().half(), events(1, 1)):
        assert_as_ordered(net, x)
    held = events(1).expand(5, 3, 3, 16, 16)
    for _ in range(3):
        assert_as_ordered(net, held)


@pytest.mark.cuda
@torch.no_grad()
def test_gpu_frozen_integers_are_the_same_bits(convolved: list[int]) -> None:
    free, net = residual(), residual(frozen=True).to("cuda")
    off = events()
    off[3, 1, 2, 5, 5] += 0.5
    for x in (events(), events(), events(), off, events(), events()):
        owed, _ = ordered(free, x)
        found = net(x.cuda())[0].cpu()
        assert same(found, owed) or (x is off and (found - owed).abs().max() < 1e-3)
    assert convolved


@pytest.mark.cuda
@torch.no_grad()
def test_gpu_an_input_off_its_grid_is_seen(convolved: list[int]) -> None:
    net = residual().to("cuda")
    for _ in range(3):
        assert_as_ordered(net, events())
    x = events()
    x[3, 1, 2, 5, 5] += 0.5
    owed, _ = ordered(net, x)
    for _ in range(3):
        before = len(convolved)
        assert (net(x.cuda())[0].cpu() - owed).abs().max() < 1e-3
        assert len(convolved) - before in (0, 4, 8), "the first layer is none of them any more, or nothing is launched"
    assert_as_ordered(net, events())


@pytest.mark.cuda
@torch.no_grad()
def test_gpu_edits_end_the_integers(convolved: list[int]) -> None:
    for name in residual().state_dict():
        net = residual().to("cuda")
        for _ in range(3):
            assert_as_ordered(net, events())
        net.state_dict()[name].mul_(0.5)
        assert_as_ordered(net, events())
        before = len(convolved)
        assert_as_ordered(net, events())
        assert len(convolved) == before, name


@pytest.mark.cuda
@torch.no_grad()
def test_gpu_a_network_edited_before_its_first_call() -> None:
    net = residual().to("cuda")
    net.state_dict()["b:weight"].mul_(0.75)
    for _ in range(3):
        assert_as_ordered(net, events())
    back = residual().to("cuda").to("cpu").to("cuda")
    assert_as_ordered(back, events())


@pytest.mark.cuda
def test_gpu_captures_recordings_and_gradients_of_the_user() -> None:
    net, x = residual().to("cuda"), events().cuda()
    with torch.no_grad():
        owed = ordered(net, x)[0]
        for _ in range(3):
            assert same(net(x)[0].cpu(), owed)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, _ = net(x)
        graph.replay()
        assert same(y.cpu(), owed)
        recorded = net.run(x, record={"nb": "spikes"}).recordings["nb"]["spikes"]
        assert set(recorded.unique().tolist()) <= {0.0, 1.0}
    out = net(x)[0]
    assert (out.detach().cpu() - owed).abs().max() < 1e-3
    out.sum().backward()


class OnGpu(Tensor):
    """A tensor on the CPU with `is_cuda`."""

    is_cuda = True

    @staticmethod
    def __new__(cls, x: Tensor) -> Any:
        return Tensor._make_subclass(cls, x)


@pytest.mark.skipif(C is None, reason="neurocuda._C is not there")
def test_int8_guards_check_parameters_and_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked, and which layers stay int8 after each result; the CPU in the place of the GPU."""
    monkeypatch.setattr(int8_layers, "is_fast", lambda device: True)
    x = whole_signal()

    def speculate(net: Executor, x: Tensor) -> tuple[set[str], bool]:
        found = net._int8.speculate({"input": OnGpu(x)}, net._store.by_field(net))
        assert found.value is not None
        return set(found.value), found.validate is None or found.validate()

    net = two_layers()
    assert speculate(net, x) == ({"a", "b"}, True)
    assert speculate(net, x + 0.5) == ({"a", "b"}, False)
    assert speculate(net, x + 0.5) == ({"b"}, True), "the layer that reads spikes remains int8"
    assert speculate(net, x) == ({"b"}, True)
    for name in net.state_dict():
        net = two_layers()
        assert speculate(net, x) == ({"a", "b"}, True)
        with torch.no_grad():
            net.state_dict()[name].mul_(1.5)
        assert speculate(net, x) == ({"a", "b"}, False), name
        assert speculate(net, x) == (set(), True), name
    edited = two_layers()
    with torch.no_grad():
        edited.state_dict()["a:weight"].mul_(1.5)
    assert speculate(edited, x) == (set(), True)


@pytest.mark.skipif(C is None, reason="neurocuda._C is not there")
def test_int8_guards_of_a_frozen_network_check_its_inputs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_layers, "is_fast", lambda device: True)
    net, x = two_layers(frozen=True), whole_signal()
    net._int8.forget()  # as where it was moved
    for signal, names, so in ((x, {"a", "b"}, True), (x + 0.5, {"a", "b"}, False), (x + 0.5, {"b"}, True)):
        found = net._int8.speculate({"input": OnGpu(signal)}, net._store.by_field(net))
        assert found.value is not None
        assert (set(found.value), found.validate is None or found.validate()) == (names, so)
        assert not [*found.guards.current, *found.guards.snapshot]
        assert all(weight.tiles and weight.values is None for weight in found.value.values()), "each has them once"


def test_a_call_whose_guards_fail_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = two_layers(), whole_signal()
    answers = iter([False, True])
    whole, made = net._run_steps, []

    def noted(*given: Any, **how: Any) -> list[Tensor]:
        made.append(whole(*given, **how))
        return made[-1]

    monkeypatch.setattr(net, "_run_steps", noted)
    speculate = net._operands.speculate

    def speculative(*given: Any) -> Any:
        return replace(speculate(*given), validate=lambda: next(answers))

    monkeypatch.setattr(net._operands, "speculate", speculative)
    with torch.no_grad():
        y, state = net(x)
        owed, owed_state = two_layers()(x)
    assert same(y, owed)
    assert same(dict(state.tensors), dict(owed_state.tensors))
    assert len(made) == 2
    assert y.data_ptr() == made[1][0].data_ptr()
