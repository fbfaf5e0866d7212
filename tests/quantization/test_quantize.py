"""`quantize`: sums that are the same in any order, what stands for what was there, and nothing else changed."""

from __future__ import annotations

import itertools
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from graph_checks import assert_same, equal
from hypothesis import given
from hypothesis import strategies as st
from make_nir import affine, conv1d, conv2d, delay, graph, input_, linear, neuron, numbers, output, scale, threshold
from oracle import OracleResult, read_raw, run
from raw_nodes import everything, ramp
from strategies import Case, cases
from test_fold_pools import average

import neurocuda
from neurocuda import ArgumentError, Discretization, Graph, quantize
from neurocuda.compiler.grids import InputGrid
from neurocuda.graph import Node, soft_resets
from neurocuda.graph.builder import build
from neurocuda.quantization.quantize import input_grid

RNG = np.random.default_rng(29)


def made(raw: dict[str, Any]) -> Graph:
    found, problems = build(raw, "by hand", nir.version)
    assert found is not None, problems
    return found


def loop(channels: int, theta: np.ndarray, level: np.ndarray) -> dict[str, Any]:
    """The nodes of a soft reset: i, s, ~r."""
    return {
        "i": {"type": "I", "r": np.full((), 1e4)},
        "s": threshold(level),
        "~r": scale(-theta),
    }


def residual() -> dict[str, Any]:
    """Spikes of soft resets with thresholds of their own, two branches, a scaled shortcut, pools, a matrix."""
    theta, level = np.array([0.7, 1.3, 2.1, 1.0]), np.array([0.31, 0.77, 1.0, 0.4])
    same = {"padding": 1}
    return graph(
        "in_>a a>i i>s s>~r ~r>i s>b s>short b>i2 short>i2 i2>s2 s2>~r2 ~r2>i2 s2>p p>f f>w w>out",
        in_=input_(2, 6, 6),
        a=conv2d(4, 2, (3, 3), **same),
        **loop(4, theta, level),
        b=conv2d(4, 4, (3, 3), **same),
        short=scale([0.3, 1.7, 0.9, 1e-3]),
        **{f"{name}2": node for name, node in loop(4, theta[::-1], level[::-1]).items()},
        p=average(3),
        f={"type": "Flatten", "start_dim": 0, "end_dim": -1},
        w=affine(5, 16),
        out=output(5),
    )


def spiking(*layers: dict[str, Any], into: tuple[int, ...], out: tuple[int, ...]) -> dict[str, Any]:
    """Layers after each other, an IF between any two."""
    nodes: dict[str, Any] = {"in_": input_(*into)}
    for number, layer in enumerate(layers):
        nodes[f"w{number}"] = layer
        if number < len(layers) - 1:
            nodes[f"n{number}"] = {"type": "IF", "r": 1e4, "v_threshold": 1.3, "v_reset": -0.1}
    nodes["z"] = output(*out)
    return graph(" ".join(f"{a}>{b}" for a, b in itertools.pairwise(nodes)), **nodes)


RECURRENT = graph(
    "in_>a a>n n>r r>n n>w w>out",
    in_=input_(4),
    a=linear(6, 4),
    n=neuron("LIF", 6),
    r=affine(6, 6, "r"),
    w=affine(2, 6, "w"),
    out=output(2),
)
GRAPHS: dict[str, dict[str, Any]] = {
    "every primitive": everything(),
    "soft resets, a shortcut, a pool": residual(),
    "a recurrence": RECURRENT,
    "grouped, strided, dilated": spiking(
        conv2d(4, 2, (3, 2), groups=2, stride=2, weight=ramp(4, 1, 3, 2) / 3),
        conv2d(6, 4, (2, 2), dilation=2, padding=np.array([1, 2])),
        conv2d(3, 6, (3, 3), padding="same"),
        into=(2, 9, 8),
        out=(3, 4, 6),
    ),
    "signals of one axis and of two": spiking(
        conv1d(3, 2, 4, padding=1), conv1d(2, 3, 3, padding="same"), into=(2, 12), out=(2, 11)
    ),
    "matrices over an axis": spiking(
        {"type": "Affine", "weight": numbers(1).normal(0, 1, (3, 4, 5)), "bias": numbers(2).normal(0, 1, (3, 4))},
        {"type": "Linear", "weight": numbers(3).normal(0, 1e-3, (3, 2, 4))},
        into=(3, 5),
        out=(3, 2),
    ),
    "one bias for all": spiking({**affine(4, 3), "bias": np.array(0.3)}, linear(2, 4), into=(3,), out=(2,)),
    "rows of zeros and numbers far apart": spiking(
        {"type": "Affine", "weight": np.diag([0, 1e-6, 1, 1e6]), "bias": np.array([0.3, 1e-7, 0, 1e5])},
        {"type": "Linear", "weight": np.zeros((2, 4))},
        into=(4,),
        out=(2,),
    ),
    "delays and a threshold": graph(
        "in_>a a>t t>d d>w w>out",
        in_=input_(3),
        a=affine(4, 3),
        t=threshold([0.1, 0.2, 0.3, 0.4]),
        d=delay(0, 1, 2, 3),
        w=linear(2, 4),
        out=output(2),
    ),
}
STEPS = 12


def signal_of(found: Graph, steps: int = STEPS, high: int = 3) -> dict[str, np.ndarray]:
    return {
        name: RNG.integers(0, high + 1, (steps, 2, *found.nodes[name].output_shape)).astype(np.float32)
        for name in found.inputs
    }


def told(found: Graph, path: Path, x: dict[str, np.ndarray], **how: Any) -> OracleResult:
    """What the oracle makes of the file of a graph."""
    neurocuda.write(found, path)
    return run(read_raw(path), x, how)


def layer_terms(node: Node, x: np.ndarray) -> np.ndarray:
    """All products that each output of a layer sums, bias last: x [N, *shape] to [N, *output, terms], float64."""
    weight = node.array("weight").astype(np.float64)
    signal = torch.from_numpy(x.astype(np.float64))
    if node.type in ("Affine", "Linear"):
        terms = x.astype(np.float64)[..., None, :] * weight
    else:
        planar = node.type == "Conv2d"
        sizes = [node.numbers(f) if planar else (1, *node.numbers(f)) for f in ("stride", "dilation")]
        kernel = weight.shape[2:] if planar else (1, *weight.shape[2:])
        signal = signal if planar else signal[:, :, None]
        spread = [g * (k - 1) for k, g in zip(kernel, sizes[1], strict=True)]
        given_ = node.parameters["padding"]
        pads = [(0, 0), (0, 0)]
        if given_ == "same":
            pads = [(n // 2, n - n // 2) for n in spread]
        elif not isinstance(given_, str):
            numbers_ = node.numbers("padding") if planar else (0, *node.numbers("padding"))
            pads = [(n, n) for n in numbers_]
        padded = torch.nn.functional.pad(signal, (*pads[1], *pads[0]))
        columns = torch.nn.functional.unfold(padded, kernel, sizes[1], 0, sizes[0]).numpy()
        groups = node.number("groups")
        by_group = columns.reshape(len(x), groups, 1, -1, columns.shape[-1])
        rows = weight.reshape(1, groups, len(weight) // groups, -1, 1)
        terms = np.moveaxis(by_group * rows, 3, -1).reshape(len(x), *node.output_shape, -1)
    if "bias" in node.parameters:
        bias = node.array("bias").astype(np.float64)
        bias = bias.reshape(-1, *(1,) * (len(node.output_shape) - 1)) if "stride" in node.parameters else bias
        bias = np.broadcast_to(bias.reshape(()) if bias.size == 1 else bias, node.output_shape)
        terms = np.concatenate([terms, np.broadcast_to(bias[..., None], (len(x), *bias.shape, 1))], -1)
    return terms


def assert_exact_in_any_order(node: Node, x: np.ndarray) -> None:
    """float32 sums in shuffled orders, and pairwise, are the float64 sum."""
    terms = layer_terms(node, x.reshape(-1, *node.input_shape))
    assert np.array_equal(terms, terms.astype(np.float32)), node.name
    exact = terms.sum(-1)
    assert np.array_equal(exact, exact.astype(np.float32)), node.name
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(terms.shape[-1])
        for places in (order, order[::-1]):
            left = np.add.accumulate(terms[..., places].astype(np.float32), -1, dtype=np.float32)[..., -1]
            assert np.array_equal(left, exact), node.name
    assert np.array_equal(terms.astype(np.float32).sum(-1, dtype=np.float32), exact), node.name


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", GRAPHS)
def test_sums_are_exact_and_the_oracle_agrees(name: str, bits: int, tmp_path: Path) -> None:
    before = made(GRAPHS[name])
    result = quantize(before, bits, input_grid=InputGrid(1, 0, 3))
    x = signal_of(before)
    expected = told(result.graph, tmp_path / "a.nir", x)
    proven = {proof.node for proof in result.certificate.proofs if proof.exact}
    for name_, node in result.graph.nodes.items():
        if node.primitive.is_weighted:
            weight = node.array("weight")
            rows = np.abs(weight.reshape(weight.shape[0], -1).astype(np.float64))
            for row in rows[rows.any(1)]:
                units = row / _step(row)
                assert units.max() <= 2 ** (bits - 1) - 1, name_
            if name_ in proven:
                assert_exact_in_any_order(node, expected.node_inputs[name_])
    assert proven or name == "every primitive"
    net = neurocuda.load(result.graph, input_grid=InputGrid(1, 0, 3))
    with torch.no_grad():
        found = net.run({n: torch.from_numpy(v) for n, v in x.items()}, record=dict.fromkeys(before.nodes, "output"))
    for node_name, recorded in found.recordings.items():
        assert np.array_equal(recorded["output"].numpy(), expected.node_outputs[node_name]), node_name


def _step(values: np.ndarray) -> float:
    """The largest power of two of which all values are multiples."""
    step = 2.0 ** np.floor(np.log2(values[values > 0].min()))
    while not (values / step == np.rint(values / step)).all():
        step /= 2
    return float(step)


@pytest.mark.parametrize("name", GRAPHS)
def test_all_but_what_is_told_stays(name: str) -> None:
    before = made(GRAPHS[name])
    kept = made(GRAPHS[name])
    result = quantize(before, 5)
    assert_same(before, kept)  # what was given has not been touched
    after = result.graph
    assert after.edges == before.edges
    assert list(after.nodes) == list(before.nodes)
    told_of = {(change.node, change.field) for change in result.changes}
    for node_name, node in before.nodes.items():
        other = after.nodes[node_name]
        assert (other.input_shape, other.output_shape) == (node.input_shape, node.output_shape)
        if other.type != node.type:
            assert (node.type, other.type) == ("AvgPool2d", "SumPool2d")
            assert any(f"{node_name!r}: AvgPool2d became" in note for note in result.notes)
        for field, value in node.parameters.items():
            if (node_name, field) not in told_of and field not in ("weight", "bias", "scale"):
                assert equal(other.parameters[field], value), (node_name, field)
        for field in {"weight", "bias", "scale"} & set(other.parameters):
            assert other.array(field).dtype == np.float32
    assert soft_resets(after) == soft_resets(before)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_same_graph_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    for path in ("a.nir", "b.nir"):
        neurocuda.write(quantize(made(GRAPHS[name]), 8).graph, tmp_path / path)
    assert (tmp_path / "a.nir").read_bytes() == (tmp_path / "b.nir").read_bytes()
    assert neurocuda.read(tmp_path / "a.nir").metadata["quantized"]["bits"] == 8
    again = quantize(neurocuda.read(tmp_path / "a.nir"), 8)
    assert all(change.largest == 0 for change in again.changes)


@given(cases(), st.integers(2, 8))
def test_random_graphs(case: Case, bits: int) -> None:
    """What is certified is exact; what runs is what the oracle runs."""
    d = Discretization(**case.discretization)
    whole = InputGrid(2.0**-4, -64.0, 64.0)
    before = made(case.raw)
    result = quantize(before, bits, input_grid=whole, discretization=d, steps=64)
    x = {name: np.clip(np.rint(np.nan_to_num(value) * 16) / 16, -64, 64) for name, value in case.x.items()}
    steps, batch = next(iter(x.values())).shape[:2]
    if not steps or not batch:
        return
    with tempfile.TemporaryDirectory() as folder:
        expected = told(result.graph, Path(folder) / "a.nir", x, **case.discretization)
    for proof in result.certificate.proofs:
        node = result.graph.nodes[proof.node]
        if proof.exact and node.primitive.is_weighted and steps <= 64:
            assert_exact_in_any_order(node, expected.node_inputs[proof.node])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = neurocuda.load(result.graph, d)
    with torch.no_grad():
        output, _ = net({name: torch.from_numpy(value) for name, value in x.items()})
    outputs = output if isinstance(output, dict) else {result.graph.outputs[0]: output}
    for name, value in outputs.items():
        assert np.array_equal(value.numpy(), expected.outputs[name], equal_nan=True), name


def test_soft_resets_stay_fused_and_their_potentials_exact(tmp_path: Path) -> None:
    result = quantize(made(residual()), 8, input_grid=InputGrid(1, 0, 3))
    assert result.certificate.exact
    net = neurocuda.load(result.graph, input_grid=InputGrid(1, 0, 3))
    assert {stage.soft_reset.integrator for stage in net.schedule.stages if stage.soft_reset} == {"i", "i2"}
    x = signal_of(result.graph, 60)
    seen = told(result.graph, tmp_path / "a.nir", x)
    for number in ("", "2"):
        total = seen.node_inputs[f"i{number}"].astype(np.float64)
        exact = total.cumsum(0)
        assert np.array_equal(seen.v[f"i{number}"], exact)
        theta = -result.graph.nodes[f"~r{number}"].array("scale")
        wanted = -made(residual()).nodes[f"~r{number}"].array("scale")
        assert np.abs(theta / wanted - 1).max() < 2.0**-8
        spikes = seen.node_outputs[f"s{number}"]
        assert 0.02 < spikes.mean() < 0.98


@pytest.mark.parametrize("when", ["above", "reaching"])
def test_a_moved_level_decides_as_it_did(when: str, tmp_path: Path) -> None:
    before = made(residual())
    result = quantize(before, 4, input_grid=InputGrid(1, 0, 3), discretization=Discretization(spike_when=when))
    moved = [c for c in result.changes if c.field == "threshold"]
    assert [c.node for c in moved] == ["s", "s2"]
    back = {n: before.nodes[n] for n in ("s", "s2")}
    other = Graph({**result.graph.nodes, **back}, result.graph.edges)
    x = signal_of(before, 100)
    first, second = (told(g, tmp_path / "a.nir", x, spike_when=when) for g in (result.graph, other))
    assert np.array_equal(first.outputs["out"], second.outputs["out"])
    assert np.array_equal(first.node_outputs["s2"], second.node_outputs["s2"])


@pytest.mark.parametrize("reset", ["to-value", "subtract"])
def test_potentials_of_if_are_exact(reset: str, tmp_path: Path) -> None:
    d = Discretization(reset=reset)
    result = quantize(
        made(GRAPHS["signals of one axis and of two"]), 6, input_grid=InputGrid(1, 0, 3), discretization=d
    )
    node, x = result.graph.nodes["n0"], signal_of(result.graph, 80)
    seen = told(result.graph, tmp_path / "a.nir", x, reset=reset)
    level, rest = (np.broadcast_to(node.array(f).reshape(-1, 1), (3, 1)) for f in ("v_threshold", "v_reset"))
    v = np.zeros(seen.v["n0"].shape[1:])
    for t, total in enumerate(seen.node_inputs["n0"].astype(np.float64)):
        u = v + total
        fired = u > level
        v = np.where(fired, u - level if reset == "subtract" else rest, u)
        assert np.array_equal(seen.v["n0"][t], v)
        assert np.array_equal(seen.node_outputs["n0"][t], fired)
    assert 0.02 < seen.node_outputs["n0"].mean() < 0.98
    if reset == "to-value":
        assert np.abs(rest + 0.1).max() < 2.0**-10
    else:
        assert np.abs(level / 1.3 - 1).max() < 2.0**-6


def test_fewer_bits_where_the_sum_would_pass_the_limit() -> None:
    wide = {"type": "Affine", "weight": RNG.normal(0, 1, (2, 3000)), "bias": np.array([0.1, 40.0])}
    raw = graph("in_>w w>out", in_=input_(3000), w=wide, out=output(2))
    promise = InputGrid(1, 0, 1023)
    result = quantize(made(raw), 8, input_grid=promise)
    assert result.certificate.exact
    used = [_step(row[row != 0]) for row in np.abs(result.graph.nodes["w"].array("weight").astype(np.float64))]
    most = np.abs(result.graph.nodes["w"].array("weight")).max(1) / used
    assert (most < 64).all()
    assert quantize(made(raw), 8).certificate.exact
    hopeless = quantize(made(raw), 8, input_grid=InputGrid(1, 0, 2.0**20))
    assert not hopeless.certificate.exact
    assert "not exact, first node 'w' (Affine)" in str(hopeless)
    plain = quantize(made(raw), 8, input_grid=InputGrid(1, 0, 1)).graph.nodes["w"].array("weight")
    assert np.array_equal(hopeless.graph.nodes["w"].array("weight"), plain)


def test_a_finer_step_of_the_bias_leaves_room() -> None:
    raw = spiking(affine(4, 3), affine(2, 4, "b"), into=(3,), out=(2,))
    result = quantize(made(raw), 8)
    for name in ("w0", "w1"):
        before, after = (g.nodes[name].array("bias").astype(np.float64) for g in (made(raw), result.graph))
        assert 0 < np.abs(after - before).max() < 2.0**-7
    # With spikes alone arriving the sum is short of 2^16 steps of it.
    proof = result.certificate.of("w1")
    assert proof is not None
    assert proof.steps_used is not None
    assert proof.steps_used <= 2**17


def test_potentials_that_a_layer_sums(tmp_path: Path) -> None:
    nodes = {"a": affine(6, 4), "i": {"type": "I", "r": 1e4}, "b": affine(3, 6, "b")}
    before = made(graph("in_>a a>i i>b b>out", in_=input_(4), **nodes, out=output(3)))
    promise = InputGrid(1, 0, 3)
    assert not quantize(before, 8, input_grid=promise).certificate.exact
    result = quantize(before, 8, input_grid=promise, steps=40)
    assert result.certificate.exact
    assert not quantize(before, 8, input_grid=promise, steps=2**20).certificate.exact
    seen = told(result.graph, tmp_path / "a.nir", signal_of(before, 40))
    for name in ("a", "b"):
        assert_exact_in_any_order(result.graph.nodes[name], seen.node_inputs[name])
    assert np.array_equal(seen.v["i"], seen.node_inputs["i"].astype(np.float64).cumsum(0))


def test_the_text_is_a_table() -> None:
    result = quantize(made(residual()), 8, input_grid=InputGrid(0.5, -2, 2))
    text = str(result)
    assert re.search(r"^by hand: weights of 8 bits$", text, re.MULTILINE)
    assert "input 'in_' has to be multiples of 0.5 from -2 to 2" in text
    assert re.search(r"^  a +weight +2\^-\d+( \.\. 2\^-\d+)? +0\.0\d+ +[\d.]+ %$", text, re.MULTILINE)
    assert "node 'p': AvgPool2d became SumPool2d, 1/9 went into the weights of 'w'" in text
    assert text.endswith("4 of 4 layers and pools are exact in any order")
    changes = {(c.node, c.field): c for c in result.changes}
    weight, new = made(residual()).nodes["a"].array("weight"), result.graph.nodes["a"].array("weight")
    assert changes["a", "weight"].largest == np.abs(new.astype(np.float64) - weight).max()
    assert changes["a", "weight"].relative == pytest.approx(np.linalg.norm(new - weight) / np.linalg.norm(weight))


def test_what_load_takes(tmp_path: Path) -> None:
    theirs = nir.NIRGraph(
        {"in": nir.Input(np.array([3])), "w": nir.Linear(ramp(2, 3)), "out": nir.Output(np.array([2]))},
        [("in", "w"), ("w", "out")],
    )
    result = quantize(theirs)
    assert np.array_equal(result.graph.nodes["w"].array("weight"), ramp(2, 3))
    neurocuda.write(result.graph, tmp_path / "a.nir")
    nir.read(str(tmp_path / "a.nir"))
    assert neurocuda.load(result.graph)(torch.ones(2, 1, 3))[0].shape == (2, 1, 2)


def broken(value: float, field: str = "weight") -> Graph:
    found = made(GRAPHS["a recurrence"])
    node = found.nodes["r"]
    array = node.array(field).astype(np.float64)
    array.flat[1] = value
    changed = Node("r", node.type, {**node.parameters, field: array}, node.input_shape, node.output_shape)
    return Graph({**found.nodes, "r": changed}, found.edges)


@pytest.mark.parametrize(
    ("argument", "how", "message"),
    [
        (RECURRENT, {"bits": 1}, "bits: expected an integer from 2 to 8, found 1"),
        (RECURRENT, {"bits": 9}, "bits: .*found 9"),
        (RECURRENT, {"bits": 8.0}, "bits: .*found 8.0"),
        (RECURRENT, {"bits": True}, "bits: .*found True"),
        ("a.nir", {}, "graph: expected a Graph or a nir.NIRGraph, found str"),
        (broken(np.nan), {}, "node 'r', field 'weight': expected finite float32 numbers, found nan"),
        (broken(1e39), {}, r"node 'r', field 'weight': expected finite float32 numbers, found 1e\+39"),
        (broken(-np.inf, "bias"), {}, "node 'r', field 'bias': expected finite float32 numbers, found -inf"),
        (RECURRENT, {"input_grid": {"nothing": InputGrid()}}, "input_grid: expected the inputs"),
        (RECURRENT, {"steps": 0}, "steps: expected an integer >= 1, found 0"),
    ],
)
def test_what_is_refused(argument: Any, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        quantize(made(argument) if isinstance(argument, dict) else argument, **how)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([np.arange(256.0)], InputGrid(1, 0, 255)),
        ([np.arange(256.0) / 255], InputGrid(2.0**-8, 0, 1)),
        ([np.array([-0.81, 2.02])], InputGrid(2.0**-6, -(4 - 2.0**-6), 4 - 2.0**-6)),
        ([np.arange(17) / 8 - 1], InputGrid(2.0**-3, -1, 1)),
        ([np.array([0.0, 1.0]), np.array([-3.0])], InputGrid(1, -3, 3)),
        ([np.array([-0.3])], InputGrid(2.0**-9, -(0.5 - 2.0**-9), 0)),
        ([np.zeros(5)], InputGrid()),
        ([np.array([1e-30])], InputGrid(2.0**-107, 0, 2.0**-99 - 2.0**-107)),
    ],
)
def test_a_grid_for_samples(samples: list[np.ndarray], expected: InputGrid) -> None:
    assert input_grid(samples) == expected


def test_a_scale_without_axes_takes_the_division_of_a_pool() -> None:
    raw = graph(
        "input>pool pool>scale scale>output",
        input=input_(1, 4, 4),
        pool={
            "type": "AvgPool2d",
            "kernel_size": np.array([3, 1]),
            "stride": np.array([1, 1]),
            "padding": np.zeros(2, int),
        },
        scale={"type": "Scale", "scale": np.array(1.0)},
        output=output(1, 2, 4),
    )
    found = quantize(made(raw), 4)
    assert [node.type for node in found.graph.nodes.values()].count("SumPool2d") == 1
    assert found.graph.nodes["scale"].array("scale").shape == ()
