"""The executor on a GPU: captured calls, simulated on the CPU, and with `-m cuda` on a GPU."""

from __future__ import annotations

import copy
import os
from itertools import pairwise

import nir
import numpy as np
import pytest
import torch
from captured import NothingFromTheHost, captured, on_meta
from comparison import assert_equal, graph_of, order_of, recorded, told
from hypothesis import HealthCheck, given, settings
from stateful import busy, drive, network
from strategies import Case, cases
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import neurocuda
from neurocuda import Discretization, Executor, State, from_nir
from neurocuda.discretization.coefficients import coefficients, coefficients_together, neuron_parameters
from neurocuda.errors import ArgumentError
from neurocuda.ops import backends, native
from neurocuda.runtime import nir_executor, operands
from neurocuda.runtime.capture import cuda_graphs
from neurocuda.runtime.interpreter import Returns

needs_compiled = pytest.mark.skipif(
    not backends.is_usable(backends.backends()["cpu"]), reason="the reference operators ask the device"
)


@needs_compiled
def test_the_executor_captures_and_carries_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(busy(), chunk=7)
    with torch.no_grad():
        owed, final = net(drive())
    device = captured(net, monkeypatch)
    with torch.no_grad():
        for length in (1, 5, 7, 10):
            pieces, state = [], None
            for part in drive().split(length):
                y, state = net(part, state)
                pieces.append(y)
            assert torch.equal(torch.cat(pieces), owed)
            assert all(torch.equal(state.tensors[name], t) for name, t in final.tensors.items())
    assert device.captures == 4
    assert device.replays > 30


@needs_compiled
def test_every_call_refuses_values_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(busy(), chunk=7)
    device, x = captured(net, monkeypatch), drive()
    wrong = x.clone()
    wrong[3, 2, 1] = float("nan")
    with torch.no_grad():
        for call in range(4):
            with pytest.raises(ArgumentError, match=r"finite numbers, found nan at index \(3, 2, 1\)"):
                net(wrong)
            assert device.replays == call
        assert torch.equal(net(x)[0], run(network(busy(), chunk=7), x))


@needs_compiled
def test_observed_calls_use_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(busy(), chunk=7)
    device, x = captured(net, monkeypatch), drive()
    with torch.no_grad():
        for _ in range(3):
            owed, _ = net(x)
    replays = device.replays
    assert replays == 2

    def check(y: Tensor) -> None:
        assert torch.equal(y, owed)
        assert device.replays == replays

    check(net(x)[0].detach())
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            net(x)
        assert device.replays == replays
        with Watching():
            check(net(x)[0])
        with neurocuda.use_backend("reference"):
            check(net(x)[0])
        net.cuda_graph = False
        check(net(x)[0])
        net.cuda_graph = True
        net(x)
        assert device.replays == replays + 1


class Watching(TorchDispatchMode):
    """A dispatch mode that changes no operator."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


@needs_compiled
def test_edits_of_every_parameter_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    net, same = network(busy(), chunk=7), network(busy(), chunk=7)
    device = captured(net, monkeypatch)
    with torch.no_grad():
        for _ in range(3):
            net(drive())
        for key, t in net.state_dict().items():
            for tensors in (t, same.state_dict()[key]):
                tensors.mul_(1.25)
            assert torch.equal(net(drive())[0], run(same, drive())), key
        assert device.captures == 1
        loaded = {key: t * 0.75 for key, t in net.state_dict().items()}
        for each in (net, same):
            each.load_state_dict(loaded)
        assert torch.equal(net(drive())[0], run(same, drive()))
        assert device.captures == 1
        for each in (net, same):
            each.load_state_dict(loaded, assign=True)
        for _ in range(3):
            assert torch.equal(net(drive())[0], run(same, drive()))
        assert device.captures == 2


def run(net: Executor, x: Tensor) -> Tensor:
    net.cuda_graph = False
    return net(x)[0]


@needs_compiled
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases())
def test_replayed_random_graphs_equal_the_oracle(case: Case) -> None:
    net = Executor(graph_of(case.raw), Discretization(**case.discretization))
    with pytest.MonkeyPatch.context() as patch:
        device = captured(net, patch)
        silence = {name: np.zeros_like(signal) for name, signal in case.x.items()}
        for x in (silence, silence, case.x):
            found = recorded(net, x)
    assert_equal(found, told(case.expected), order_of(net), f"{net}\n{net.graph}")
    steps = next(iter(case.x.values())).shape[0]
    assert device.captures == 3 * (steps > 0)  # with recordings, without, and without a returned state


@needs_compiled
@given(cases())
def test_a_call_copies_nothing_from_the_host(case: Case) -> None:
    net = Executor(graph_of(case.raw), Discretization(**case.discretization), chunk=3)
    steps, batch = next(iter(case.x.values())).shape[:2]
    asked = [(name, quantity) for name in net.graph.nodes for quantity in ("input", "output")]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for module in (nir_executor, operands):
            patch.setattr(module, "operators", lambda device: native)
        given = on_meta(net, steps, batch)
        with NothingFromTheHost():
            results = net._run_steps(Returns(tuple(asked)), None, {}, [], True, given)
    assert {t.device.type for t in results} <= {"meta"}


def test_out_is_written_by_every_call() -> None:
    net = network(busy(), chunk=7)
    x = drive()
    with torch.no_grad():
        owed, state = net(x)
        out = torch.empty_like(owed)
        y, after = net(x, out=out)
        assert y is out
        assert torch.equal(out, owed)
        y, _ = net(x[:1], after, out=out[:1])
        assert torch.equal(y, net(x[:1], state)[0])
        name = net.graph.outputs[0]
        assert net.run(x, out={name: out}).output is out
        for wrong in (out[1:], out.double(), {"nobody": out}, 3, out.to("meta")):
            with pytest.raises(ArgumentError, match="out"):
                net(x, out=wrong)
    with pytest.raises(ArgumentError, match="no_grad"):
        net(x, out=out)


@pytest.mark.parametrize("d", [Discretization(), Discretization.rockpool()])
def test_coefficients_are_the_same_side_by_side(d: Discretization) -> None:
    g = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return g.uniform(1e-3, 1e-2, size=shape)

    def lif(*shape: int) -> nir.LIF:
        return nir.LIF(*(some(*shape) for _ in range(5)))

    nodes = {
        "in": nir.Input(np.array([3])),
        **{f"lif{place}": lif(*shape) for place, shape in enumerate([(1,), (3,), (1,), (1,)])},
        "li": nir.LI(some(1), some(1), some(1)),
        "if": nir.IF(some(1), some(1), some(1)),
        "cuba": nir.CubaLIF(*(some(1) for _ in range(7))),
        "out": nir.Output(np.array([3])),
    }
    graph = from_nir(nir.NIRGraph(nodes, list(pairwise(nodes)), type_check=False))
    parameters = {name: neuron_parameters(node) for name, node in graph.nodes.items() if node.primitive.is_neuron}
    found = coefficients_together(graph.nodes, parameters, d)
    assert found.keys() == parameters.keys()
    for name, p in parameters.items():
        for field, owed in vars(coefficients(graph.nodes[name], p, d)).items():
            value = getattr(found[name], field)
            assert torch.equal(value, owed) if isinstance(owed, Tensor) else value == owed, (name, field)
            assert not isinstance(owed, Tensor) or value.shape == owed.shape


@pytest.fixture
def on_gpu() -> Executor:
    return network(busy(), chunk=7).to("cuda")


def compare_on_gpu(net: Executor, x: Tensor, state: State | None = None) -> None:
    """Compares a call, captured or not, with the reference operators on the CPU."""
    with torch.no_grad():
        y, after = net(x, state)
        with neurocuda.use_backend("reference"):
            owed, owed_after = copy.deepcopy(net).to("cpu")(x.cpu(), None if state is None else state.to("cpu"))
    assert torch.equal(y.cpu(), owed)
    assert all(torch.equal(after.tensors[name].cpu(), t) for name, t in owed_after.tensors.items())


@pytest.mark.cuda
def test_gpu_calls_equal_the_reference(on_gpu: Executor) -> None:
    for turn in range(4):
        compare_on_gpu(on_gpu, drive().to("cuda") * (1 + turn))


@pytest.mark.cuda
@pytest.mark.skipif(cuda_graphs._NO_POOLS in os.environ, reason="no memory for graphs")
def test_gpu_a_second_call_is_captured(on_gpu: Executor) -> None:
    with torch.no_grad():
        on_gpu(drive().to("cuda"))
        assert not on_gpu._calls._captured
        on_gpu(drive().to("cuda"))
    assert [graph is not None for graph in on_gpu._calls._captured.values()] == [True]


@pytest.mark.cuda
def test_gpu_edits_are_seen(on_gpu: Executor) -> None:
    x = drive().to("cuda")
    for key in on_gpu.state_dict():
        compare_on_gpu(on_gpu, x)
        with torch.no_grad():
            on_gpu.state_dict()[key].mul_(1.25)
        compare_on_gpu(on_gpu, x)


@pytest.mark.cuda
def test_gpu_streams_take_turns(on_gpu: Executor) -> None:
    """A stream waits for another only through the CUDA graph."""
    streams = [torch.cuda.Stream() for _ in range(3)]
    signals = [drive().to("cuda") * (1 + turn) for turn in range(30)]
    with torch.no_grad():
        owed = [run(copy.deepcopy(on_gpu), x) for x in signals]
        torch.cuda.synchronize()
        found = []
        for turn, x in enumerate(signals):
            with torch.cuda.stream(streams[turn % 3]):
                found.append(on_gpu(x)[0])
        torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, owed, strict=True))


@pytest.mark.cuda
def test_gpu_the_same_bits_every_time(on_gpu: Executor) -> None:
    x = drive().to("cuda")
    with torch.no_grad():
        results = [on_gpu(x)[0] for _ in range(100)]
        direct = [run(copy.deepcopy(on_gpu), x) for _ in range(20)]
    assert all(torch.equal(y, results[0]) for y in (*results, *direct))


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_gpu_a_network_on_the_second_device(on_gpu: Executor) -> None:
    second = copy.deepcopy(on_gpu).to("cuda:1")
    for turn in range(4):
        for net, device in ((on_gpu, "cuda:0"), (second, "cuda:1")):
            compare_on_gpu(net, drive().to(device) * (1 + turn))


@pytest.mark.cuda
def test_gpu_a_call_inside_a_capture_of_the_user(on_gpu: Executor) -> None:
    x = drive().to("cuda")
    with torch.no_grad():
        owed = run(copy.deepcopy(on_gpu), x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, _ = on_gpu(x)
        graph.replay()
    assert torch.equal(y, owed)
