"""int8 layers equal the oracle and every other implementation, in any chunk, batch and number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from comparison import assert_equal, graph_of, order_of, recorded, tensors, told
from conftest import FULL
from drawn import counts, settings
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from integer_networks import (
    BY_R,
    COUNTS,
    assert_again,
    fc,
    needs_bytes,
    same,
    spiking_graph,
    two_layers,
    ways,
    whole_signal,
    within_bytes,
)
from layer_terms import terms_of
from layers_at_bound import at_the_bound, extremes, promise_of
from make_nir import Node, graph, input_, numbers, output, scale
from strategies import Case, cases

from neurocuda import ArgumentError, Discretization, Executor
from neurocuda.compiler.grids import InputGrid
from neurocuda.ops import backends

LAYERS = 2000 if FULL else 200
GRAPHS = 1000 if FULL else 40
PARTS = 10

needs_native = pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="no native operators")


# Every implementation is forced


def assert_in_parts(net: Executor, x: dict[str, np.ndarray], draw: np.random.Generator, *what: object) -> None:
    """A run that is stopped and resumed, and the samples on their own, give the same bits."""
    steps, batch = next(iter(x.values())).shape[:2]
    stop, sample = int(draw.integers(steps + 1)), int(draw.integers(batch))
    with torch.no_grad():
        whole, after = net(tensors(x))
        first, state = net(tensors({name: values[:stop] for name, values in x.items()}))
        second, state = net(tensors({name: values[stop:] for name, values in x.items()}), state)
        alone, _ = net(tensors({name: values[:, sample : sample + 1] for name, values in x.items()}))
    assert same(state.tensors, after.tensors), what
    for name in net.graph.outputs if isinstance(whole, dict) else [None]:
        y, *parts = (value if name is None else value[name] for value in (whole, first, second))
        assert same(torch.cat(parts), y), (name, stop, *what)
        assert same(alone if name is None else alone[name], y[:, sample : sample + 1]), (name, sample, *what)


def on_grids(case: Case, draw: np.random.Generator) -> tuple[dict[str, InputGrid], dict[str, np.ndarray]]:
    """A grid for each input, and signals at its ends."""
    grids = promise_of(draw, list(case.x))
    return grids, {name: extremes(draw, grids[name], values.shape) for name, values in case.x.items()}


def assert_ways(case: Case, seed: int, as_given: bool = False) -> None:
    draw = np.random.default_rng(seed)
    found, options = graph_of(case.raw), Discretization(**case.discretization)
    grids, x = (None, case.x) if as_given else on_grids(case, draw)
    if draw.random() < 0.3:  # the same at all steps
        x = {name: np.broadcast_to(signal[:1], signal.shape) for name, signal in x.items()}
    net = Executor(found, options, input_grid=grids)
    with np.errstate(all="ignore"):
        expected = told(oracle.run(case.raw, x, case.discretization))
    allowed = ways(net)
    best = {name: hows[-1] for name, hows in allowed.items()}
    forces = [{name: how} for name, hows in allowed.items() for how in hows if how != "ordered"]
    for force in [best, *forces[: 4 if FULL else 2]]:
        steps = next(iter(x.values())).shape[0]
        chunk, threads = int(draw.choice([1, 2, 3, max(1, steps)])), int(draw.choice([1, 1, 2]))
        forced = Executor(found, options, force=force, chunk=chunk, input_grid=grids)
        counts["integer layers forced"] += len(forced.schedule.integer_layers)
        counts["populations in bytes"] += len(forced.schedule.bytes)
        what = f"{force}, chunk {chunk}, {threads} threads\n{forced}\n{forced.certificate}"
        with settings(threads):
            assert_equal(recorded(forced, x), expected, order_of(forced), what)
        assert_again(forced, x, what)
        assert_in_parts(forced, x, draw, what)


@given(cases(), st.integers(0, 2**32 - 1))
def test_every_implementation_of_every_layer_equals_the_oracle(case: Case, seed: int) -> None:
    assert_ways(case, seed)


@examples(max_examples=300 if FULL else 25)
@given(cases(max_nodes=7, fixed=COUNTS), st.integers(0, 2**32 - 1))
def test_networks_with_spike_counts_equal_the_oracle(case: Case, seed: int) -> None:
    assert_ways(case, seed)


@pytest.mark.parametrize("part", range(PARTS))
def test_spiking_networks_equal_the_oracle(part: int) -> None:
    for number in range(part * GRAPHS // PARTS, (part + 1) * GRAPHS // PARTS):
        draw = np.random.default_rng([number, 7])
        raw = spiking_graph(draw)
        options = {**BY_R, **({"output_delay": 1} if draw.random() < 0.1 else {})}
        steps, batch = int(draw.integers(1, 8)), int(draw.integers(1, 4))
        x = {"input": draw.integers(0, int(draw.choice([2, 9])), (steps, batch, *raw["nodes"]["input"]["shape"]))}
        assert_ways(Case(raw, {"input": x["input"].astype(np.float32)}, options), number, as_given=True)


@pytest.mark.parametrize("part", range(PARTS))
def test_layers_at_the_bound_equal_their_exact_sums(part: int) -> None:
    for case in range(part * LAYERS // PARTS, (part + 1) * LAYERS // PARTS):
        draw = np.random.default_rng([case, 8])
        node, shape, grid, scales = within_bytes(draw) if case % 4 else at_the_bound(draw)[:4]
        if "weight" not in node:
            continue
        one = scale(scales.reshape(-1, *[1] * (len(shape) - 1)))
        to = output(*oracle.output_shape(node, shape))
        found = graph_of(graph("input>s s>l l>output", input=input_(*shape), s=one, l=node, output=to))
        x = extremes(draw, grid, (2, 3, *shape))
        exact = terms_of(node, x.reshape(-1, *shape) * one["scale"]).exact()
        for how in ways(Executor(found, input_grid=grid))["l"][1:]:
            net = Executor(found, force={"l": how}, chunk=1, input_grid=grid)
            with torch.no_grad(), settings(int(draw.choice([1, 2])), flush=bool(draw.random() < 0.3)):
                y = [net(torch.from_numpy(x))[0].numpy() for _ in range(3)]
            for values in y:
                assert np.array_equal(values.ravel().astype(np.float64), exact), (case, how, node, grid, scales)
            counts[f"layers at the bound, {how}"] += 1


LARGE: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "3 x 3": ((24, 48, 16, 16), {"padding": 1}),
    "3 x 3, stride 2": ((33, 31, 17, 15), {"padding": 1, "stride": 2}),
    "1 x 1": ((64, 65, 9, 9), {}),
    "by channel": ((64, 64, 12, 12), {"padding": 1, "groups": 64}),
    "in groups": ((32, 48, 10, 10), {"padding": 2, "dilation": 2, "groups": 4}),
    "few channels": ((1, 3, 40, 40), {"padding": "same"}),
    "matrix": ((500, 130), {}),
}


@needs_bytes
@pytest.mark.parametrize("name", LARGE)
def test_layers_of_real_sizes_equal_their_exact_sums(name: str) -> None:
    """The vendor library has other kernels for large layers."""
    (into, out, *space), fields = LARGE[name]
    kernel, groups = {"1 x 1": 1, "matrix": 0}.get(name, 3), fields.get("groups", 1)
    draw = numbers(name)
    weight = draw.integers(-127, 128, (out, into // groups, *[kernel] * len(space)))
    bias = draw.integers(-(2**20), 2**20, out) / 256
    node: Node = {"type": "Affine", "weight": weight.astype("f4") / 128, "bias": bias.astype("f4")}
    if space:
        node = {**node, "type": "Conv2d", "stride": 1, "padding": 0, "dilation": 1, "groups": 1, **fields}
    to = output(*oracle.output_shape(node, (into, *space)))
    found = graph_of(graph("input>l l>output", input=input_(into, *space), l=node, output=to))
    high = int(2**22 // max(1.0, np.abs(weight).reshape(out, -1).sum(1).max()))
    grid = InputGrid(high=min(255, max(1, high)))
    nets = [Executor(found, force={"l": how}, input_grid=grid) for how in ("integer", "library")]
    x = draw.integers(0, int(grid.high) + 1, (2, 3, into, *space)).astype("f4")
    frames, w, b = (torch.from_numpy(values).double() for values in (x.reshape(6, into, *space), node["weight"], bias))
    functional = torch.nn.functional
    exact = functional.conv2d(frames, w, b, **fields) if space else functional.linear(frames, w, b)
    with torch.no_grad():
        for threads in (1, 2, 1):
            with settings(threads):
                for net in nets:
                    assert torch.equal(net(torch.from_numpy(x))[0].double().flatten(0, 1), exact)


@needs_bytes
def test_a_layer_without_incoming_edges_runs_in_integers() -> None:
    """Its output is a constant of the program, computed from prepacked weights, which cannot be compared."""
    half = {"type": "Affine", "weight": np.array([[0.5]], "f4"), "bias": np.array([1.0], "f4")}
    raw = graph("x>fed fed>y idle>y", x=input_(1), fed=half, idle=half, y=output(1))
    net = Executor(graph_of(raw), force={"fed": "integer", "idle": "integer"})
    x = torch.arange(6).float().reshape(6, 1, 1)
    with torch.no_grad():
        for _ in range(4):
            assert torch.equal(net(x)[0], x * 0.5 + 2)


@pytest.mark.parametrize(
    ("asked", "so"), [("AVX2", False), ("avx512_core", False), ("AVX2_VNNI", False), ("ALL", True)]
)
def test_int8_is_off_where_onednn_may_not_use_vnni(asked: str, so: bool) -> None:
    """oneDNN then sums bytes in 16 bits, which saturate: 255 x 127 twice is too much."""
    program = "from neurocuda.ops import int8; print(int8.is_fast('cpu'))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"ONEDNN_MAX_CPU_ISA": asked}, capture_output=True, text=True
    )
    assert done.stdout == f"{so and torch.cpu._is_vnni_supported()}\n", done.stderr


@needs_native
@needs_bytes
def test_weights_are_prepacked_once_for_all_shapes() -> None:
    net, expected = two_layers(), two_layers(force={})
    with torch.no_grad():
        assert net(whole_signal(3, 0))[0].shape == (3, 0, 3)
        net(whole_signal(1, 1))
        laid_out = [weight.prepacked for weight in net._int8._weights.values()]
        for batch in range(1, 40):
            x = whole_signal(2, batch)
            assert torch.equal(net(x)[0], expected(x)[0])
        assert net(whole_signal(3, 0))[0].shape == (3, 0, 3)
        assert net(whole_signal(0, 3))[0].shape == (0, 3, 3)
    now = [weight.prepacked for weight in net._int8._weights.values()]
    assert laid_out
    assert all(a is b and a is not None for a, b in zip(laid_out, now, strict=True))


def test_an_unproved_int8_layer_cannot_be_forced() -> None:
    raw = graph(
        "input>a a>output", input=input_(3), a={**fc(2, 3), "weight": np.full((2, 3), 0.3, "f4")}, output=output(2)
    )
    with pytest.raises(ArgumentError, match="force: expected 8-bit weights and signals for node 'a', found "):
        Executor(graph_of(raw), force={"a": "integer"})


@needs_native
@needs_bytes
@torch.no_grad()
def test_a_profile_finds_the_captured_int8_layers() -> None:
    net, x = two_layers(chunk=8), whole_signal()
    state = None
    for _ in range(4):
        _, state = net(x, state)
    assert [name for name, _ in net.profile(x, state)].count("onednn::qconv2d_pointwise") == 2
