"""The proof of exact sums: what it calls exact is so in every order and unit, and it says where and why a sum is not.

Tried to be broken by layers drawn at its bound, by random graphs, and by membranes over the declared steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
from comparison import graph_of
from conftest import FULL
from drawn import counts
from hypothesis import given
from hypothesis import strategies as st
from layer_terms import Terms, terms_of
from layers_at_bound import MOST, at_the_bound, extremes, ones, promise_of, weighted
from make_nir import Node, delay, graph, input_, linear, neuron, numbers, output, scale, threshold
from oracle import Array
from strategies import MANY, Case, cases

from neurocuda import Discretization
from neurocuda.compiler.certificate import Proof
from neurocuda.compiler.exactness import Search, promised
from neurocuda.compiler.grids import Grid, InputGrid

CASES = 10_000 if FULL else 400
BATCHES = 20
BY_R = {"if_gain": "r"}
COUNTS = {**MANY, **BY_R}


def search(raw: Node, options: dict[str, Any], grid: Any = None, steps: int | None = None) -> tuple[Search, Proof]:
    """The search after it is done, and the proof of the node named 'layer'."""
    found = graph_of(raw)
    done = Search(found, Discretization(**options), promised(found, grid), steps)
    proof = done.certificate().of("layer")
    assert proof is not None
    return done, proof


# Layers at the bound


def assert_on_grid(values: Array, grid: Grid, *what: object) -> None:
    """Values [..., C, *] after two axes, within bounds and multiples of the step of each channel."""
    channels = np.moveaxis(values.astype(np.float64), 2, 0) if values.ndim > 2 else values.reshape(1, -1)
    for channel, step, low, high in zip(channels, grid.step, grid.low, grid.high, strict=True):
        assert channel.min(initial=low) >= low, ("below the bound", low, channel.min(), *what)
        assert channel.max(initial=high) <= high, ("above the bound", high, channel.max(), *what)
        units = np.ldexp(channel, -int(min(step, 1000)))
        assert np.array_equal(units, np.rint(units)), ("off the grid", step, *what)


def layers(batch: int) -> Iterator[tuple[int, np.random.Generator]]:
    for case in range(batch * CASES // BATCHES, (batch + 1) * CASES // BATCHES):
        yield case, np.random.default_rng([case, 6])


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_layer_called_exact_is_so_in_every_order_and_unit(batch: int) -> None:
    for case, draw in layers(batch):
        node, shape, grid, scales, must = at_the_bound(draw)
        one = scale(scales.reshape(-1, *[1] * (len(shape) - 1)))
        raw = graph("input>s s>layer layer>output", input=input_(*shape), s=one, layer=node, output=output(*shape))
        raw["nodes"]["output"] = output(*oracle.output_shape(node, shape))
        done, proof = search(raw, {}, grid)
        counts["layers at the bound"] += 1
        assert proof.exact or not must, (case, proof)
        if not proof.exact:
            assert proof.reason
            assert proof.remedy
            continue
        counts["layers at the bound called exact"] += 1
        x, ends = extremes(draw, grid, (2, *shape)), (grid.low, grid.high)
        signal = x * one["scale"]
        terms = terms_of(node, signal)
        if case % 2:  # for every sum the ends that make it largest, which no one signal may have for all
            least, most = (
                terms_of(node, np.broadcast_to(np.float32(end) * one["scale"], signal.shape)) for end in ends
            )
            terms = replace(terms, x=np.where((terms.weight > 0) == (case % 4 == 1), most.x, least.x))
        exact = terms.exact()
        for way, sums in terms.in_float32(draw):
            assert np.array_equal(sums.astype(np.float64), exact), (case, way, node, grid)
        assert_widths(terms, proof, exact, case)
        if node["type"] == "AvgPool2d":
            exact = exact / np.prod(node["kernel_size"])
        signals = done.signals["layer"]
        if isinstance(signals, Grid):
            assert_on_grid(exact.reshape(1, *terms.shape), signals, case, node, grid)


def assert_widths(terms: Terms, proof: Proof, exact: Array, case: int) -> None:
    """The operands fit the bits that the proof tells; in bytes they give the same sum."""
    if proof.signal_bits is not None and proof.weight_bits is not None:
        x, w = significant_bits(terms.x), significant_bits(terms.weight)
        assert x.max() <= proof.signal_bits, case
        assert w.max() <= proof.weight_bits - 1, case
        if x.max() <= 8 and w.max() <= 8:
            counts["layers at the bound in bfloat16"] += 1
            narrow = replace(terms, x=bfloat16(terms.x), weight=bfloat16(terms.weight))
            assert np.array_equal(narrow.one_by_one(np.arange(x.shape[1] + 1), fused=True), exact), case
    if proof.integers is not None:
        counts["layers at the bound in bytes"] += 1
        by_row = np.ldexp(1.0, np.array(proof.integers.weight_steps))[terms.rows]
        signal = np.ldexp(terms.x.astype(np.float64), -proof.integers.signal_step)
        weight = terms.weight / by_row[:, None]
        assert all(0 <= value <= 255 and value == int(value) for value in np.unique(signal)), case
        assert all(abs(value) <= 127 and value == int(value) for value in np.unique(weight)), case
        sums_of_bytes = (signal.astype(np.int64) * weight.astype(np.int64)).sum(1)
        assert np.abs(signal * weight).sum(1).max() < 2**31, case
        factor = np.float32(2.0**proof.integers.signal_step) * by_row.astype(np.float32)
        result = sums_of_bytes.astype(np.int32).astype(np.float32) * factor + terms.bias
        assert np.array_equal(result.astype(np.float64), exact), case


def significant_bits(values: Array) -> Array:
    """From the highest to the lowest bit that is set in each number."""
    mantissa = np.abs(np.frexp(values.astype(np.float64))[0] * 2.0**53).astype(np.int64)
    lowest_bit = mantissa & -mantissa
    return np.where(mantissa == 0, 0, np.log2(np.maximum(mantissa, 1) // np.maximum(lowest_bit, 1)).astype(int) + 1)


def bfloat16(values: Array) -> Array:
    """Rounded to nearest even, as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.astype(np.uint32).view(np.float32)


def convolved(*channels: float, bias: float) -> Node:
    weight, settings = np.array(channels, np.float32), {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    shape = (1, len(channels), 1, 1)
    return {"type": "Conv2d", "weight": weight.reshape(shape), "bias": np.array([bias], np.float32), **settings}


ABOVE = {
    "Linear": (weighted(MOST, 1, 1), InputGrid(high=1), [1, 1, 1]),
    "terms that cancel": (weighted(MOST, 1, -1), InputGrid(high=1), [1, 1, 1]),
    "bias": (weighted(MOST - 1, 1, bias=2), InputGrid(high=1), [1, 1]),
    "bias finer than a product": (weighted(MOST / 4, 0.25, bias=0.25), InputGrid(high=1), [1, 1]),
    "steps of two channels": (weighted(1, 2.0**-23, 2.0**-23), InputGrid(high=2), [2, 1, 1]),
    "both signs of the signal": (weighted(MOST / 2, 1, 1, -MOST / 2), InputGrid(low=-1, high=1), [1, 1, 1, -1]),
    "Conv2d": (convolved(MOST, 1, bias=1), InputGrid(high=1), [1, 1]),
    "SumPool2d": (
        {"type": "SumPool2d", "kernel_size": np.array([1, 3]), "stride": np.array([1, 1]), "padding": np.array([0, 0])},
        InputGrid(high=MOST),
        [MOST, 1, 1],
    ),
}


@pytest.mark.parametrize("name", ABOVE)
def test_just_above_the_bound_there_is_an_order_that_differs(name: str) -> None:
    node, grid, x = ABOVE[name]
    shape = {"Conv2d": (len(x), 1, 1), "SumPool2d": (1, 1, len(x))}.get(node["type"], (len(x),))
    raw = graph("input>layer layer>output", input=input_(*shape), layer=node, output=output(1))
    proof = search(raw, {}, grid)[1]
    terms = terms_of(node, np.array(x, np.float32).reshape(1, *shape))
    draw = np.random.default_rng(0)
    found = {float(sums[0]) for _ in range(20) for _, sums in terms.in_float32(draw)}
    assert proof.steps_used is not None
    assert proof.steps_used > MOST
    assert not proof.exact
    assert len(found) > 1


SMALLEST = 2.0**-126
EDGES = {
    "nothing but zeros": (weighted(0, 0), InputGrid(high=MOST), True),
    "a zero row beside the bound": (
        {"type": "Linear", "weight": np.array([[0, 0], [MOST - 1, 1]], "f4")},
        InputGrid(high=1),
        True,
    ),
    "the least normal step": (weighted(SMALLEST, SMALLEST), InputGrid(high=1), True),
    "a step that is subnormal": (weighted(SMALLEST / 2, SMALLEST), InputGrid(high=1), False),
    "a subnormal weight, whose products are not": (
        weighted(2.0**-130, 2.0**-130),
        InputGrid(2.0**20, 0, 2.0**21),
        False,
    ),
    "a product that is subnormal": (weighted(2.0**-100, 1), InputGrid(2.0**-40, 0, 2.0**-39), False),
    "a bias that is subnormal": (weighted(1, 1, bias=2.0**-127), InputGrid(high=1), False),
    "a bias far below the products": (weighted(1, 1, bias=2.0**-24), InputGrid(high=1), False),
    "a sum beyond float32": (weighted(2.0**100, 2.0**100), InputGrid(2.0**30, 0, 2.0**30), False),
    "weights of 24 bits": (weighted(MOST - 1, 1), InputGrid(high=1), True),
    "weights of float32": (weighted(0.1, 0.2), InputGrid(high=1), False),
}


@pytest.mark.parametrize("name", EDGES)
def test_the_ends_of_the_numbers(name: str) -> None:
    node, grid, exact = EDGES[name]
    proof = search(graph("input>layer layer>output", input=input_(2), layer=node, output=output(1)), {}, grid)[1]
    assert proof.exact is exact, proof
    assert name != "nothing but zeros" or proof.steps_used == 0


def test_bytes_are_not_asked_of_steps_that_float32_does_not_hold() -> None:
    """The product of the least steps of signal and weights may be subnormal where no term is."""
    one = scale([2.0**-90, 2.0**-96])
    for factor, expected in ((1.0, False), (64.0, True)):
        layer = weighted(2.0**-36 * factor, 2.0**-30 * factor)
        raw = graph("input>s s>layer layer>output", input=input_(2), s=one, layer=layer, output=output(1))
        proof = search(raw, {}, InputGrid(high=1))[1]
        assert proof.exact
        assert (proof.integers is not None) is expected, proof


# Random graphs


def assert_sound(case: Case, draw: np.random.Generator) -> None:
    found = graph_of(case.raw)
    grids = promise_of(draw, list(case.x))
    steps = max(1, len(next(iter(case.x.values()))))
    x = {name: extremes(draw, grids[name], signal.shape) for name, signal in case.x.items()}
    done = Search(found, Discretization(**case.discretization), promised(found, grids), steps)
    certificate = done.certificate()
    nodes = oracle.flatten(case.raw).nodes
    assert set(done.signals) == set(found.nodes)
    assert [proof.node for proof in certificate.proofs if proof.type not in SUMS] == []
    assert len(certificate.proofs) == sum(node.type in SUMS for node in found.nodes.values())
    with np.errstate(all="ignore"):
        told = oracle.run(case.raw, x, case.discretization)
    for name, signal in done.signals.items():
        if isinstance(signal, Grid):
            counts["signals on a grid"] += 1
            assert_on_grid(told.node_outputs[name], signal, name, certificate)
    for proof in certificate.proofs:
        into = told.node_inputs[proof.node]
        if proof.exact and into.size > 0:
            counts["layers of graphs called exact"] += 1
            terms = terms_of(nodes[proof.node], into.reshape(-1, *into.shape[2:]))
            exact = terms.exact()
            for way, sums in terms.in_float32(draw):
                assert np.array_equal(sums.astype(np.float64), exact), (proof.node, way, certificate)
            assert_widths(terms, proof, exact, 0)


SUMS = {"Linear", "Affine", "Conv1d", "Conv2d", "SumPool2d", "AvgPool2d"}


@given(cases(), st.integers(0, 2**32 - 1))
def test_every_signal_of_a_random_graph_is_on_the_grid_it_is_given(case: Case, seed: int) -> None:
    assert_sound(case, np.random.default_rng(seed))


@given(cases(max_nodes=6, fixed=COUNTS), st.integers(0, 2**32 - 1))
def test_so_it_is_where_neurons_count(case: Case, seed: int) -> None:
    assert_sound(case, np.random.default_rng(seed))


# Membranes


MEMBRANES = {
    "I": graph("input>i i>layer layer>output", input=input_(2), i=ones("I", 2), layer=weighted(1, 0), output=output(1)),
    "nested": {
        "type": "NIRGraph",
        "nodes": {
            "input": input_(2),
            "inner": graph("in>i i>out", **{"in": input_(2), "i": ones("I", 2), "out": output(2)}),
            "layer": weighted(1, 0),
            "output": output(1),
        },
        "edges": [("input", "inner"), ("inner", "layer"), ("layer", "output")],
    },
    "delayed": graph(
        "input>d d>i i>e e>layer layer>output",
        input=input_(2),
        d=delay(1.0, 3.0),
        i=ones("I", 2),
        e=delay(2.0, 0.0),
        layer=weighted(1, 0),
        output=output(1),
    ),
    "soft reset": graph(
        "input>i i>t t>s s>i i>layer layer>output",
        input=input_(2),
        i=ones("I", 2),
        t=threshold([2.0**40, 2.0**40]),
        s=scale([0.0, 0.0]),
        layer=weighted(1, 0),
        output=output(1),
    ),
}


@pytest.mark.parametrize("name", MEMBRANES)
def test_a_membrane_is_on_its_grid_for_the_declared_steps(name: str) -> None:
    raw, high = MEMBRANES[name], 2.0**20
    grid = InputGrid(high=high)
    done, proof = search(raw, BY_R, grid, 16)
    assert proof.exact
    assert proof.steps_used == MOST
    x = np.full((16, 1, 2), high, np.float32)
    told = oracle.run(raw, {"input": x}, BY_R)
    for node, signal in done.signals.items():
        assert isinstance(signal, Grid)
        assert_on_grid(told.node_outputs[node], signal, node)
    lost = search(raw, BY_R, grid, 17)[1]
    assert not lost.exact
    assert "in 17 steps" in lost.reason
    assert "certify(..., steps=)" in lost.remedy
    assert not search(raw, BY_R, grid)[1].exact
    step = np.ones((1, 1, 2), np.float32)
    late = oracle.run(raw, {"input": np.concatenate([x, step, 0 * step, 0 * step, 0 * step])}, BY_R)
    assert max(v.max() for v in late.v.values()) == MOST  # and not one more


LATE = {
    "a delay": (graph("input>a a>output", input=input_(2), a=delay(2.0, 1.0), output=output(2)), {}),
    "an edge in a cycle": (
        graph(
            "input>fc fc>a a>n n>fc a>output",
            input=input_(2),
            fc={"type": "Linear", "weight": np.eye(2, dtype="f4")},
            a=ones("I", 2),
            n=threshold([1e9, 1e9]),
            output=output(2),
        ),
        {**BY_R, "feedback": "weight-output"},
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_what_is_late_starts_with_zeros(name: str) -> None:
    raw, options = LATE[name]
    found, grid = graph_of(raw), InputGrid(low=3, high=7)
    done = Search(found, Discretization(**options), promised(found, grid), 6)
    done.certificate()
    signal = done.signals["a"]
    assert isinstance(signal, Grid)
    told = oracle.run(raw, {"input": np.full((6, 1, 2), 7, np.float32)}, options).node_outputs["a"]
    assert told.min() == 0
    assert_on_grid(told, signal, name)


def test_a_potential_that_only_falls_is_bounded_too() -> None:
    raw = MEMBRANES["I"]
    assert search(raw, BY_R, InputGrid(low=-(2.0**20), high=-1), 16)[1].exact
    assert not search(raw, BY_R, InputGrid(low=-(2.0**20), high=-1), 17)[1].exact


COUNTING = {
    "thresholds that are no float of few bits": (ones("IF", 3, v_threshold=np.array([0.7, 0.1, 0.3])), 4),
    "gains": (ones("IF", 3, r=np.array([3.1, 0.7, 250.0])), 255),
    "one large, then nothing": (ones("IF", 3, v_threshold=np.array([1e-3, 0.9, 1.0])), 1000),
    "a leak": (neuron("LIF", 3, v_leak=np.zeros(3)), 9),
}


@pytest.mark.parametrize("name", COUNTING)
def test_counts_of_spikes_stay_within_their_bound(name: str) -> None:
    node, high = COUNTING[name]
    raw = graph("input>n n>layer layer>output", input=input_(3), n=node, layer=weighted(1, 1, 1), output=output(1))
    signal = search(raw, COUNTS, InputGrid(high=high))[0].signals["n"]
    assert isinstance(signal, Grid)
    draw = numbers(name)
    most = 0.0
    for trial in range(40):
        x = draw.integers(0, high + 1, (50, 2, 3)) if trial % 2 else np.where(draw.random((50, 2, 3)) < 0.5, high, 0)
        told = oracle.run(raw, {"input": x.astype(np.float32)}, COUNTS)
        assert_on_grid(told.node_outputs["n"], signal, name)
        most = max(most, float(told.node_outputs["n"].max()))
    assert most >= signal.high.max() / 2, "the bound is not far"


UNBOUNDED = {
    "a leak that drives": neuron("LIF", 3, v_leak=np.ones(3)),
    "a current of its own": neuron("CubaLIF", 3, v_leak=np.zeros(3)),
    "thresholds too low": ones("IF", 3, v_threshold=np.full(3, 1e-6)),
    "a threshold of zero": ones("IF", 3, v_threshold=np.zeros(3)),
    "a threshold below zero": ones("IF", 3, v_threshold=-np.ones(3)),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_counts_without_a_bound_are_told(name: str) -> None:
    layer = weighted(1, 1, 1)
    raw = graph("input>n n>layer layer>output", input=input_(3), n=UNBOUNDED[name], layer=layer, output=output(1))
    proof = search(raw, COUNTS)[1]
    assert not proof.exact
    assert "any number of spikes" in proof.reason
    assert proof.remedy == "spikes_per_step='one'"
    assert search(raw, {})[1].exact


def test_what_left_its_grid_bounds_no_counts_further_on() -> None:
    """The bound of a signal is not that of what comes after it."""
    last: dict[str, Node] = {"n": ones("IF", 3), "layer": weighted(1, 1, 1), "output": output(1)}
    for between in (scale(1000.0), linear(3, 3)):
        raw = graph("input>s s>b b>n n>layer layer>output", input=input_(3), s=scale(0.3), b=between, **last)
        told = oracle.run(raw, {"input": np.full((3, 1, 3), 255, np.float32)}, COUNTS)
        signal = search(raw, COUNTS)[0].signals["n"]
        assert not isinstance(signal, Grid) or told.node_outputs["n"].max() <= signal.high.max()
    raw = graph("input>s s>n n>layer layer>output", input=input_(3), s=scale(0.3), **last)
    assert isinstance(search(raw, COUNTS)[0].signals["n"], Grid)


def test_a_rounded_sum_of_what_cancels_is_bounded_by_its_terms() -> None:
    row = [2.0**25, *[3.0] * 20, -(2.0**25), -60.0]  # every 3 is rounded to 4
    nodes = {"layer": weighted(*row), "n": ones("IF", 1)}
    raw = graph("input>layer layer>n n>output", input=input_(len(row)), output=output(1), **nodes)
    x = np.ones((2, 1, len(row)), np.float32)
    counted = oracle.run(raw, {"input": x}, COUNTS).node_outputs["n"].max()
    signal = search(raw, COUNTS, InputGrid(low=1, high=1))[0].signals["n"]
    assert counted == 20, "the true sum is zero"
    assert not isinstance(signal, Grid) or counted <= signal.high.max()
