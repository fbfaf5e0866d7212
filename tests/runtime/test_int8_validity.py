"""int8 layers run only while their proof is valid: inputs on their grid, unchanged parameters."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparison import graph_of
from drawn import settings
from integer_networks import (
    BY_R,
    COUNTS,
    copy_parameters,
    fc,
    fires,
    library_of,
    needs_bytes,
    two_layers,
    ways,
    whole_signal,
)
from layers_at_bound import ones
from make_nir import delay, graph, input_, numbers, output, scale, signal, threshold
from torch import Tensor

from neurocuda import ArgumentError, Discretization, Executor
from neurocuda.compiler.grids import InputGrid
from neurocuda.ops import backends, int8

native_operators = backends.is_usable(backends.backends()["cpu"])
pytestmark = [
    needs_bytes,
    pytest.mark.skipif(not native_operators, reason="no native operators"),
]


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the signals of all int8 layers that Python calls; a replayed call calls none."""
    shapes: list[tuple[int, ...]] = []
    plain = int8.convolution

    def noted(x: Tensor, *rest: Any) -> Tensor:
        shapes.append(tuple(x.shape))
        return plain(x, *rest)

    monkeypatch.setattr(int8, "convolution", noted)
    return shapes


OFF = {"half": 0.5, "more": 256.0, "less": -1.0, "huge": 1e30, "tiny": 1e-40, "nearly": 1 + 2.0**-23}


@pytest.mark.parametrize("value", OFF.values(), ids=OFF)
def test_a_chunk_off_its_grid_runs_in_float(value: float, multiplied: list[tuple[int, ...]]) -> None:
    x = whole_signal()
    x[3, 1, 7] = value
    float_, net = two_layers(force={"a": "library", "b": "library"}), two_layers()
    with torch.no_grad():
        record = {"a": "output", "b": "output"}
        expected, found = float_.run(x, record=record), net.run(x, record=record)
        whole = [shape for shape in multiplied if shape[1] == 40]
        assert whole == [(4, 40)] * 3, "three of the four chunks"
        assert len(multiplied) == 7, "the layer after the spikes rests on no input"
        for name in record:
            assert torch.equal(found.recordings[name]["output"], expected.recordings[name]["output"])
        for _ in range(3):
            assert torch.equal(net(x)[0], expected.output)
            assert torch.equal(net(whole_signal())[0], float_(whole_signal())[0])


def test_negative_zero_and_the_ends_are_on_the_grid(multiplied: list[tuple[int, ...]]) -> None:
    net, x = two_layers(), torch.zeros(2, 1, 40)
    x[0, 0, 0], x[1, 0, 1] = -0.0, 255.0
    with torch.no_grad():
        assert torch.equal(net(x)[0], library_of(net)(x)[0])
    assert (2, 40) in multiplied


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int8, torch.float16, torch.bfloat16])
def test_narrow_and_expanded_inputs_give_the_same_bits(dtype: torch.dtype, multiplied: list[tuple[int, ...]]) -> None:
    x = whole_signal().to(dtype)
    held = x[:1].expand(8, -1, -1)
    with torch.no_grad():
        for signal_ in (x, held, x.transpose(0, 1).contiguous().transpose(0, 1), x[:, :1].expand(-1, 3, -1), x[::2]):
            net, expected = two_layers(), two_layers(force={})
            for _ in range(4):
                assert torch.equal(net(signal_)[0], expected(signal_.float())[0])
            assert any(shape[1] == 40 for shape in multiplied)
            multiplied.clear()
        if dtype in (torch.int8, torch.float16, torch.bfloat16):
            x[3, 0, 0] = -2
            assert torch.equal(net(x)[0], library_of(net)(x)[0])


def test_uint8_inputs_may_be_off_a_narrower_grid() -> None:
    net = two_layers(input_grid=InputGrid(high=5))
    x = whole_signal().to(torch.uint8)
    with torch.no_grad():
        assert torch.equal(net(x)[0], library_of(net)(x)[0])
        x[5, 0, 2] = 200
        assert torch.equal(net(x)[0], library_of(net)(x)[0])


def test_a_grid_that_ends_between_multiples() -> None:
    net = two_layers(input_grid=InputGrid(high=256 - 1e-9))
    x = torch.full((2, 1, 40), 256.0)
    with torch.no_grad():
        assert torch.equal(net(x)[0], library_of(net)(x)[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite_are_refused_by_name(value: float) -> None:
    net, x = two_layers(), whole_signal()
    bad = x.clone()
    bad[5, 1, 3] = value
    for _ in range(4):
        with torch.no_grad():
            net(x)
            with pytest.raises(ArgumentError, match=rf"input 'input': expected finite numbers, found {value} at index"):
                net(bad)
            net(x[:1])
            with pytest.raises(ArgumentError, match="input 'input': expected finite numbers"):
                net(bad[5:6])


def test_one_input_of_two_off_its_grid() -> None:
    nodes = {"a": fc(4, 3), "b": fc(4, 5), "n": fires(4), "c": fc(2, 4)}
    ends = {"x": input_(3), "y": input_(5), "output": output(2)}
    found = graph_of(graph("x>a y>b a>n b>n n>c c>output", **nodes, **ends))
    grids = {"x": InputGrid(0.25, 0, 8)}
    net = Executor(found, Discretization(**BY_R), force=dict.fromkeys("abc", "integer"), chunk=2, input_grid=grids)
    draw = numbers("two")
    x = torch.from_numpy(draw.integers(0, 33, (8, 2, 3)).astype("f4") / 4)
    y = torch.from_numpy(draw.integers(0, 9, (8, 2, 5)).astype("f4"))
    y[2, 0, 0], x[6, 0, 0] = 0.25, 0.125
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(net({"x": x, "y": y})[0], library_of(net)({"x": x, "y": y})[0])


KEPT = {
    "a delay": (
        graph("input>d d>fc fc>output", input=input_(3), d=delay(2.0, 1.0, 3.0), fc=fc(5, 3), output=output(5)),
        {},
    ),
    "what a delay is summed with": (
        graph(
            "input>d d>s input>s s>fc fc>output",
            input=input_(3),
            d=delay(2.0),
            s=scale(1.0),
            fc=fc(5, 3),
            output=output(5),
        ),
        {},
    ),
    "counts": (
        graph("input>n n>fc fc>output", input=input_(3), n=ones("IF", 3), fc=fc(5, 3), output=output(5)),
        COUNTS,
    ),
    "counts beside spikes": (
        graph(
            "input>n n>t t>fc fc>output n>gc gc>output",
            input=input_(3),
            n=ones("IF", 3),
            t=threshold(2.0),
            fc=fc(5, 3),
            gc=fc(5, 3, 1),
            output=output(5),
        ),
        COUNTS,
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_state_from_a_chunk_off_its_grid(name: str) -> None:
    """A later chunk is on the grid, and what it reads is not."""
    raw, options = KEPT[name]
    found, d, grid = graph_of(raw), Discretization(**options), InputGrid(high=4)
    force = {node: hows[-1] for node, hows in ways(Executor(found, d, input_grid=grid)).items()}
    for off in (0.5, 1003.0, 2.0**24 + 2, 1.7e20):
        net = Executor(found, d, chunk=2, input_grid=grid, force=force)
        x = numbers(name).integers(0, 5, (8, 2, 3)).astype("f4")
        x[2:4] = off
        with torch.no_grad():
            for _ in range(3):
                assert torch.equal(net(torch.from_numpy(x))[0], library_of(net)(torch.from_numpy(x))[0])


# Parameters that change


def warm() -> Executor:
    net = two_layers(chunk=8)
    with torch.no_grad():
        for _ in range(3):
            net(whole_signal())
    return net


def parameter(net: Executor, node: str, field: str) -> torch.nn.Parameter:
    name = net.parameter_name(node, field)
    assert name is not None
    held: torch.nn.Parameter = getattr(net, name)
    return held


def optimizer_step(net: Executor) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    net(whole_signal())[0].sum().backward()
    optimizer.step()


def replaced(net: Executor) -> None:
    name = net.parameter_name("a", "weight")
    assert name is not None
    setattr(net, name, torch.nn.Parameter(getattr(net, name).detach() * 3 + 0.01))


def other_weights(net: Executor) -> None:
    net.load_state_dict({name: value * 1.5 + 0.125 for name, value in net.state_dict().items()})


def turned(net: Executor) -> None:
    """Other values, with transposed strides."""
    p = parameter(net, "a", "weight")
    p.data = p.data.t().contiguous().t() * 1.5


def numpy_view(net: Executor) -> None:
    parameter(net, "a", "weight").detach().numpy()[0, 0] += 1 / 64


EDITS: dict[str, Callable[[Executor], object]] = {
    "a step of an optimizer": optimizer_step,
    "a weight through .data": lambda net: parameter(net, "b", "weight").data.add_(0.3),
    "one bit of a weight": lambda net: parameter(net, "a", "weight").data.view(torch.int32)[3, 3:4].bitwise_xor_(1),
    "a weight, still on its grid": lambda net: parameter(net, "a", "weight").data[1, 1:2].add_(1 / 64),
    "a numpy view": numpy_view,
    "a bias": lambda net: parameter(net, "b", "bias").data.add_(0.1),
    "a threshold": lambda net: parameter(net, "n", "v_threshold").mul_(0.5),
    "another tensor in its place": replaced,
    "other memory": turned,
    "load_state_dict": other_weights,
    "a weight of 128": lambda net: parameter(net, "a", "weight").data[0, 0:1].fill_(2.0),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_changed_parameter_ends_int8(name: str, multiplied: list[tuple[int, ...]]) -> None:
    for net in (warm(), two_layers(chunk=8)):  # the second has not run yet
        multiplied.clear()
        before = copy.deepcopy(net)
        EDITS[name](net)
        expected = copy_parameters(net, two_layers(chunk=8, force={"a": "library", "b": "library"}))
        x = whole_signal()
        with torch.no_grad():
            for signal_ in (x, x + 0.5, x):
                assert torch.equal(net(signal_)[0], expected(signal_)[0])
            assert not multiplied
            assert torch.equal(before(x)[0], library_of(before)(x)[0])
            assert multiplied


@torch.no_grad()
def test_a_replayed_call_checks_its_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third call is one call into C++; if a guard fails, the network runs operator by operator."""
    net, x = two_layers(chunk=8), whole_signal()[:4]
    expected = two_layers(chunk=8, force={"a": "library", "b": "library"})
    long: list[int] = []
    run = net._run
    monkeypatch.setattr(net, "_run", lambda *given, **how: (long.append(1), run(*given, **how))[1])
    for _ in range(5):
        y, _ = net(x)
    assert len(long) == 2, "a first call, and a captured one"
    assert torch.equal(y, expected(x)[0])
    for value in OFF.values():
        off = x.clone()
        off[1, 1, 7] = value
        long.clear()
        assert torch.equal(net(off)[0], expected(off)[0]), value
        assert long, value
        for _ in range(3):
            net(x)
    long.clear()
    net(x)
    assert not long
    parameter(net, "a", "weight").data.view(torch.int32)[3, 3:4].bitwise_xor_(1)
    changed = copy_parameters(net, expected)
    assert torch.equal(net(x)[0], changed(x)[0])
    assert long


def test_the_proof_of_a_layer_depends_on_a_scale_before_it(multiplied: list[tuple[int, ...]]) -> None:
    raw = graph("input>s s>a a>output", input=input_(3), s=scale([1.0, 2.0, 0.5]), a=fc(4, 3), output=output(4))
    net = Executor(graph_of(raw), force={"a": "integer"}, input_grid=InputGrid(high=31))
    x = torch.from_numpy(signal(4, 2, 3)) * 31
    with torch.no_grad():
        for _ in range(3):
            net(x)
        assert multiplied
        multiplied.clear()
        parameter(net, "s", "scale").mul_(0.3)
        assert torch.equal(net(x)[0], library_of(net)(x)[0])
        assert not multiplied


def test_a_restored_parameter_gives_the_first_bits() -> None:
    net, x = warm(), whole_signal()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        first = net(x)[0]
        parameter(net, "b", "weight").mul_(2)
        assert not torch.equal(net(x)[0], first)
        net.load_state_dict(state)
        assert torch.equal(net(x)[0], first)


def by_torch(net: Executor) -> Executor:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded: Executor = torch.load(file, weights_only=False)
    return loaded


COPIES: dict[str, Callable[[Executor], Executor]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": by_torch,
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_has_int8_weights_of_its_own(name: str, multiplied: list[tuple[int, ...]]) -> None:
    net, x = warm(), whole_signal()
    with torch.no_grad():
        expected = net(x)[0]
        multiplied.clear()
        other = COPIES[name](net)
        assert torch.equal(other(x)[0], expected)
        assert multiplied
        parameter(other, "a", "weight").mul_(0.7)
        assert torch.equal(other(x)[0], library_of(other)(x)[0])
        assert torch.equal(net(x)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_of_other_dtypes_run_in_float(dtype: torch.dtype) -> None:
    for net in (warm(), two_layers()):
        with torch.no_grad():
            x = whole_signal()
            converted, expected = copy.deepcopy(net).to(dtype), library_of(net).to(dtype)
            assert torch.equal(converted(x)[0], expected(x)[0])
            assert torch.equal(converted.float()(x)[0], expected.float()(x)[0])


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize(
    ("value", "step", "low", "high", "kept"),
    [
        (3.0, 1.0, 0.0, 255.0, True),
        (256.0, 1.0, 0.0, 255.0, False),
        (-1.0, 1.0, 0.0, 255.0, False),
        (2.5, 1.0, 0.0, 255.0, False),
        (2.5, 0.5, 0.0, 255.0, True),
        (2.0**-140, 1.0, 0.0, 255.0, False),  # subnormal
        (2.0**-100, 2.0**100, 0.0, 2.0**100, False),  # of the product nothing is left
        (2.0**127, 2.0**127, 0.0, 2.0**127, True),  # the reciprocal of the step is subnormal
        (2.0**126, 2.0**127, 0.0, 2.0**127, False),
        (math.inf, 1.0, 0.0, 255.0, False),
        (math.nan, 1.0, 0.0, 255.0, False),
    ],
)
def test_grids_are_checked_exactly(value: float, step: float, low: float, high: float, kept: bool, flush: bool) -> None:
    x = torch.zeros(100)
    x[77] = value
    with settings(1, flush=flush):
        assert int8.on_grid(x, step, low, high) == kept


def test_a_weight_that_became_subnormal_is_seen() -> None:
    weight = torch.zeros(2, 3)
    whole = int8.from_float32(weight, (0, 0))
    assert int8.weights_equal([weight], [whole])
    weight[1, 2] = 2.0**-140
    for flush in (False, True):
        with settings(1, flush=flush):
            assert not int8.weights_equal([weight], [whole])
