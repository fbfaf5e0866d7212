"""Step after step: a replayed call returns what a first call returns, after any change in between."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Callable
from itertools import pairwise

import nir
import numpy as np
import pytest
import torch
from comparison import assert_equal, by_output, graph_of, order_of, tensors, told
from hypothesis import given
from strategies import Case, cases
from torch import Tensor

import neurocuda
from neurocuda import Discretization, Executor, State
from neurocuda.ops import backends

pytestmark = [
    pytest.mark.sanitized,
    pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there"),
]


def network() -> Executor:
    """An ordered layer, a neuron with a recurrent weight, and another neuron: all operators that a replay may have."""
    draw = np.random.default_rng(7)
    ones = np.ones(5)
    lif = nir.CubaLIF(
        tau_mem=ones * 4e-4, tau_syn=ones * 3e-4, r=ones, v_leak=ones * 0, v_threshold=ones * 0.2, v_reset=ones * 0
    )
    nodes = {
        "input": nir.Input(np.array([4])),
        "fc": nir.Affine(draw.normal(size=(5, 4)), draw.normal(size=5)),
        "lif": lif,
        "rec": nir.Linear(draw.normal(size=(5, 5))),
        "li": nir.LI(tau=ones * 5e-4, r=ones, v_leak=ones * 0),
        "output": nir.Output(np.array([5])),
    }
    edges = [("input", "fc"), ("fc", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "li"), ("li", "output")]
    return neurocuda.load(nir.NIRGraph(nodes, edges))


def signal(batch: int = 2, steps: int = 1) -> Tensor:
    return torch.randn(steps, batch, 4, generator=torch.Generator().manual_seed(batch + 10 * steps)) * 3


def oracle(net: Executor, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """The results of the reference operators with the current parameters."""
    with neurocuda.use_backend("reference"), torch.no_grad():
        y, after = net(x, state)
    return y, after


def warm(net: Executor, x: Tensor) -> State:
    """Calls until replays start: the first is eager, the second is captured, the third is guarded."""
    _, state = net(x)
    for _ in range(4):
        _, state = net(x, state)
    assert net._calls.replay(False, x, state.tensors, net) is not None
    return state


def warm_from_rest(net: Executor, x: Tensor) -> None:
    for _ in range(4):
        net(x)
    assert net._calls.replay(False, x, None, net) is not None


def equal(case: str, found: tuple[Tensor, State], owed: tuple[Tensor, State]) -> None:
    pairs = {"output": (found[0], owed[0])}
    pairs |= {name: (found[1].tensors[name], owed[1].tensors[name]) for name in owed[1].tensors}
    assert list(found[1].tensors) == list(owed[1].tensors), case
    for name, (a, b) in pairs.items():
        assert torch.equal(a, b), f"{case}, {name}: expected {b}, found {a}"


def edit_data(net: Executor) -> None:
    net._parameters["fc:weight"].data[0, 0] += 1


def edit_by_numpy(net: Executor) -> None:
    net._parameters["rec:weight"].detach().numpy()[1] *= 2


def edit_in_place(net: Executor) -> None:
    net._parameters["fc:bias"].add_(0.5)


def edit_bias_memory(net: Executor) -> None:
    net._parameters["fc:bias"].data = torch.ones(5)


def edit_a_buffer(net: Executor) -> None:
    net._buffers["lif:v_threshold"] *= 0.5


def another_parameter(net: Executor) -> None:
    net._parameters["fc:weight"] = torch.nn.Parameter(torch.ones(5, 4))


def another_buffer(net: Executor) -> None:
    setattr(net, "li:tau", torch.full_like(getattr(net, "li:tau"), 9e-4))


def load_state(net: Executor) -> None:
    net.load_state_dict({key: value * 1.25 for key, value in net.state_dict().items()})


EDITS = [
    edit_data,
    edit_by_numpy,
    edit_in_place,
    edit_bias_memory,
    edit_a_buffer,
    another_parameter,
    another_buffer,
    load_state,
]


@torch.no_grad()
@pytest.mark.parametrize(("steps", "from_rest"), [(1, False), (6, False), (6, True)])  # from rest: without a state
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_is_seen_by_the_next_call(edit: Callable[[Executor], None], steps: int, from_rest: bool) -> None:
    net, x = network(), signal(steps=steps)
    state = warm_from_rest(net, x) if from_rest else warm(net, x)
    before = net(x, state)
    edit(net)
    found = net(x, state)
    equal(edit.__name__, found, oracle(net, x, state))
    assert not torch.equal(before[1].tensors["lif.v"], found[1].tensors["lif.v"]) or not torch.equal(
        before[0], found[0]
    ), f"{edit.__name__} changes nothing: the case tests nothing"


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "larger batch": lambda x: signal(3),
    "more steps": lambda x: signal(2, 5),
    "strided": lambda x: torch.stack([x, x + 1], dim=-1)[..., 0],
    "uint8": lambda x: (x > 0).to(torch.uint8),
    "float16": lambda x: x.half(),
    "parameter": lambda x: torch.nn.Parameter(x.clone()),
    "no batch": lambda x: x[:, :0],
    "no steps": lambda x: x[:0],
}


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_signals_of_other_metadata_are_not_replayed(kind: str) -> None:
    net, first = network(), signal()
    state = warm(net, first)
    x = KINDS[kind](first)
    if x.shape[1] != first.shape[1]:
        state = State({name: torch.zeros(x.shape[1], *t.shape[1:]) for name, t in state.tensors.items()})
    for _ in range(4):
        equal(kind, net(x, state), oracle(net, x, state))


@torch.no_grad()
def test_a_replayed_call_refuses_what_the_first_refuses() -> None:
    net, x = network(), signal()
    state = warm(net, x)
    bad = x.clone()
    bad[0, 1, 2] = float("nan")
    with pytest.raises(neurocuda.ArgumentError, match=r"expected finite numbers, found nan at index \(0, 1, 2\)"):
        net(bad, state)
    with pytest.raises(neurocuda.ArgumentError, match="expected a tensor"):
        net(x[..., :3], state)
    with pytest.raises(neurocuda.ArgumentError, match=r"state, entry 'lif\.v'"):
        net(x, State(state.tensors | {"lif.v": state.tensors["lif.v"].double()}))
    missing = {name: t for name, t in state.tensors.items() if name != "lif.v"}
    with pytest.raises(neurocuda.ArgumentError, match="expected entries"):
        net(x, State(missing))
    turned = State(dict(reversed(state.tensors.items())))
    equal("entries in another order", net(x, turned), oracle(net, x, state))


def test_autograd_and_transforms_see_the_operators() -> None:
    net, x = network(), signal()
    with torch.no_grad():
        state = warm(net, x)
        owed = oracle(net, x, state)
    given = x.clone().requires_grad_()
    found = net(given, state)
    equal("with gradients", found, owed)
    found[1].tensors["lif.v"].sum().backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0
    gradient = torch.func.grad(lambda x: net(x, state)[1].tensors["lif.v"].sum())(x)
    assert torch.equal(gradient, given.grad), f"expected {given.grad}, found {gradient}"
    with torch.inference_mode():
        equal("inference mode", net(x, state), owed)


@torch.no_grad()
def test_a_step_from_rest_is_replayed() -> None:
    net, x = network(), signal()
    warm(net, x)
    assert net._calls.replay(False, x, None, net) is not None
    equal("from rest", net(x), oracle(net, x, None))
    edit_data(net)
    equal("from rest after an edit", net(x), oracle(net, x, None))


@torch.no_grad()
@pytest.mark.parametrize("make", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copy_is_captured_by_itself(make: Callable[[Executor], Executor]) -> None:
    net, x = network(), signal()
    state = warm(net, x)
    twin = make(net)
    edit_in_place(twin)
    equal("twin", twin(x, warm(twin, x)), oracle(twin, x, warm(twin, x)))
    equal("original", net(x, state), oracle(net, x, state))


@torch.no_grad()
def test_replays_write_into_new_memory() -> None:
    net, x = network(), signal()
    state = warm(net, x)
    y, after = net(x, state)
    view, kept = y[:, :1], [y.clone(), *(t.clone() for t in after.tensors.values())]
    for _ in range(100):
        _, state = net(x, state)
    for now, then in zip([y, *after.tensors.values()], kept, strict=True):
        assert torch.equal(now, then)
    assert torch.equal(view, kept[0][:, :1])


@torch.no_grad()
def test_a_step_costs_no_new_memory() -> None:
    _C = importlib.import_module("neurocuda._C")
    net, x = network(), signal(4096)
    state = warm(net, x)
    for _ in range(20):
        _, state = net(x, state)
    before = _C.memory()
    for _ in range(200):
        _, state = net(x, state)
    assert _C.memory() == before


@torch.no_grad()
def test_a_profile_names_the_operators_of_a_step() -> None:
    net, x = network(), signal()
    _, fresh = net(x)
    assert net.profile(x, fresh) == []
    found = net.profile(x, warm(net, x))
    assert [name for name, _ in found] == [
        "neurocuda::ordered_linear",
        "neurocuda::recurrent_neuron",
        "neurocuda::neuron",
    ]
    assert all(nanoseconds > 0 for _, nanoseconds in found)


@torch.no_grad()
def test_a_call_of_several_chunks_is_not_guarded() -> None:
    net = network()
    net.chunk = 4
    x = signal(steps=5)
    for _ in range(4):
        equal("more than a chunk", net(x), oracle(net, x, None))
    assert net._calls.replay(False, x, None, net) is None


@given(cases())
def test_call_after_call_equals_the_oracle(case: Case) -> None:
    net = Executor(graph_of(case.raw), Discretization(**case.discretization))
    x = tensors(case.x)
    given_x = x if len(x) > 1 else next(iter(x.values()))
    with torch.no_grad():
        for call in range(5):
            made = {(name, "result"): y.numpy() for name, y in by_output(net, net(given_x)[0]).items()}
            assert_equal(made, told(case.expected), order_of(net), f"call {call}\n{net}\n{net.graph}")


@given(cases())
def test_step_after_step_equals_the_oracle(case: Case) -> None:
    """For random graphs: the first steps are captured, later ones replayed, as bound calls where there are any."""
    net = Executor(graph_of(case.raw), Discretization(**case.discretization))
    x = tensors(case.x)
    steps = next(iter(x.values())).shape[0]
    state, found = None, []
    with torch.no_grad():
        for step in range(steps):
            now = {name: signal[step : step + 1] for name, signal in x.items()}
            y, state = net(now if len(now) > 1 else next(iter(now.values())), state)
            found.append(by_output(net, y))
    made = {(name, "result"): torch.cat([y[name] for y in found]).numpy() for name in found[0]} if found else {}
    assert_equal(made, told(case.expected), order_of(net), f"{net}\n{net.graph}")


@torch.no_grad()
@pytest.mark.parametrize(("threads", "batch"), [(2, 2), (2, 4), (2, 5), (3, 2), (3, 6), (4, 3)])
def test_threads_that_take_whole_samples_change_no_bit(threads: int, batch: int) -> None:
    """In captured calls, threads share the work of layers by samples; in the first call, and with one thread, not."""
    draw = np.random.default_rng(threads * 10 + batch)

    def conv(out: int, into: int, size: int) -> nir.Conv2d:
        weight = draw.normal(0, 0.5, (out, into, 3, 3)).astype(np.float32)
        return nir.Conv2d((size, size), weight, 1, 1, 1, 1, draw.normal(0, 0.1, out).astype(np.float32))

    def fire(*shape: int) -> nir.IF:
        ones = np.ones(shape, np.float32)
        return nir.IF(r=1e4 * ones, v_threshold=ones, v_reset=0 * ones)

    nodes = {
        "input": nir.Input(np.array([3, 24, 24])),
        "conv1": conv(8, 3, 24),
        "if1": fire(8, 24, 24),
        "sum": nir.SumPool2d(2, 2, 0),
        "conv2": conv(8, 8, 12),
        "if2": fire(8, 12, 12),
        "mean": nir.AvgPool2d(3, 2, 1),
        "output": nir.Output(np.array([8, 6, 6])),
    }
    net = Executor(neurocuda.from_nir(nir.NIRGraph(nodes, [*pairwise(nodes)])))
    before = torch.get_num_threads()
    try:
        found = []
        for number in (1, threads):
            torch.set_num_threads(number)
            state = None
            for _ in range(4):  # each its own chunk, run in tiles
                x = torch.from_numpy(np.random.default_rng(5).normal(0.5, 1, (9, batch, 3, 24, 24)).astype(np.float32))
                y, state = net(x, state)
            found.append((y, state))
        (one, one_state), (several, several_state) = found
        assert one.any()
        assert torch.equal(one, several)
        assert all(torch.equal(one_state.tensors[name], t) for name, t in several_state.tensors.items())
    finally:
        torch.set_num_threads(before)
