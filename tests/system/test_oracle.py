"""The oracle against facts that can be computed by hand, against torch's layers, and against published traces."""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from nir_files import write_raw
from places import PAPER
from strategies import Case, cases
from torch.nn import functional as F

paper = pytest.mark.skipif(not PAPER.is_dir(), reason="the NIR paper's files are not beside this repository")

Node = dict[str, Any]
STEP = {"dt": 1.0, "if_gain": "r"}


def graph(nodes: dict[str, Node], *edges: str) -> Node:
    """A raw graph; each edge string "a b c" is a chain."""
    chains = [edge.split() for edge in edges]
    return {"type": "NIRGraph", "nodes": nodes, "edges": [pair for c in chains for pair in pairwise(c)]}


def ends(size: int = 1) -> dict[str, Node]:
    return {"in": {"type": "Input", "shape": np.array([size])}, "out": {"type": "Output", "shape": np.array([size])}}


def neuron(kind: str, **fields: Any) -> Node:
    """A neuron whose update is v + x with threshold 1, unless `fields` say otherwise."""
    known: dict[str, tuple[str, ...]] = {
        "I": ("r",),
        "IF": ("r", "v_threshold"),
        "LI": ("tau", "r", "v_leak"),
        "LIF": ("tau", "r", "v_leak", "v_threshold"),
        "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak"),
        "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold"),
    }
    defaults = {name: 0.0 if name == "v_leak" else 1.0 for name in known[kind]}
    return {"type": kind, **{name: np.array([value]) for name, value in (defaults | fields).items()}}


def out(raw: Node, x: list[float], name: str = "out", **options: Any) -> list[float]:
    """What node `name` emits for a drive of one channel, batch 1."""
    return [float(y) for y in result(raw, x, **options).node_outputs[name][:, 0, 0]]


def result(raw: Node, x: list[float], **options: Any) -> oracle.OracleResult:
    return oracle.run(raw, {"in": np.array(x, np.float32)[:, None, None]}, {**STEP, **options})


def single(node: Node) -> Node:
    return graph({**ends(), "n": node}, "in n out")


# Neurons


def test_lif_by_hand() -> None:
    node = neuron("LIF", tau=2.0, r=4.0, v_leak=1.0, v_threshold=3.0, v_reset=-1.0)
    found = result(single(node), [1, 1, 0, 0])
    # u = v/2 + (2x + 1/2): 2.5; 1.25 + 2.5 = 3.75 fires, v = -1; -0.5 + 0.5 = 0; 0.5
    assert found.v["n"].ravel().tolist() == [2.5, -1.0, 0.0, 0.5]
    assert found.outputs["out"].ravel().tolist() == [0, 1, 0, 0]


def test_cuba_by_hand_and_synapse() -> None:
    node = neuron("CubaLI", tau_syn=2.0, tau_mem=4.0, r=4.0, w_in=2.0)
    found = result(single(node), [1, 0, 0])
    assert found.i["n"].ravel().tolist() == [1.0, 0.5, 0.25]
    assert found.v["n"].ravel().tolist() == [1.0, 0.75 + 0.5, 0.9375 + 0.25]
    assert out(single(node), [1, 0, 0], synapse="previous") == [0.0, 1.0, 0.75 + 0.5]
    without = {name: value for name, value in node.items() if name != "w_in"}  # then it is one
    assert out(single(without), [2, 0, 0]) == [1.0, 1.25, 1.1875]


def test_exponential_coefficients_round_once() -> None:
    node = neuron("LI", tau=3.0, r=0.7, v_leak=0.3)
    c = oracle.neuron_coefficients(node, (1,), {**oracle.DEFAULTS, "dt": 0.1, "integrator": "exponential"})
    g = 1 - np.exp(-0.1 / 3.0)
    assert c["gain_v"] == np.float32(0.7 * g)
    assert c["bias_v"] == np.float32(0.3 * g)
    assert c["decay_v"] == np.float32(np.exp(-0.1 / 3.0))


def test_gain_of_if() -> None:
    assert out(single(neuron("I", r=3.0)), [1, 1], dt=0.5, if_gain="r*dt") == [1.5, 3.0]
    assert out(single(neuron("I", r=3.0)), [1, 1], dt=0.5, if_gain="r") == [3.0, 6.0]


def test_resets_and_ties() -> None:
    tie = [1, 0.5, 1]  # threshold 1
    assert out(single(neuron("IF")), tie) == [0, 1, 0]
    assert out(single(neuron("IF")), tie, spike_when="reaching") == [1, 0, 1]
    assert result(single(neuron("IF")), tie).v["n"].ravel().tolist() == [1, 0, 1]
    assert result(single(neuron("IF")), tie, reset="subtract").v["n"].ravel().tolist() == [1, 0.5, 0.5]
    assert result(single(neuron("IF", v_reset=0.25)), tie).v["n"].ravel().tolist() == [1, 0.25, 0.25]


def test_late_resets() -> None:
    """A decay of 0.5 and a gain of 1: the subtraction comes after the decay, the value before it."""
    late = {"reset_delay": 1, "if_gain": "r"}
    lif = single(neuron("LIF", tau=2.0, r=2.0, v_reset=0.5))
    found = result(lif, [1.5, 1, 0], **late)
    assert found.v["n"].ravel().tolist() == [1.5, 1.25, 0.25]
    assert found.outputs["out"].ravel().tolist() == [1, 1, 0]
    found = result(lif, [1.5, 1, 0], reset="subtract", **late)
    assert found.v["n"].ravel().tolist() == [1.5, 0.75, 0.375]
    assert found.outputs["out"].ravel().tolist() == [1, 0, 0]


def test_lower_bounds() -> None:
    x = [-3, 0.5, 2, -5]
    assert result(single(neuron("IF")), x, clamp="zero").v["n"].ravel().tolist() == [0, 0.5, 0, 0]
    assert result(single(neuron("IF")), x, clamp="-threshold").v["n"].ravel().tolist() == [-1, -0.5, 0, -1]
    assert result(single(neuron("IF", v_reset=-2)), x, clamp="zero").v["n"].ravel().tolist() == [0, 0.5, 0, 0]
    assert result(single(neuron("I")), x, clamp="zero").v["n"].ravel().tolist() == [-3, -2.5, -0.5, -5.5]


def test_many_spikes_per_step() -> None:
    many = {"spikes_per_step": "many", "spike_when": "reaching", "reset": "subtract"}
    found = result(single(neuron("IF", v_threshold=0.5)), [1.25, -2, 0, 2.5], **many)
    assert found.outputs["out"].ravel().tolist() == [2, 0, 0, 1]
    assert found.v["n"].ravel().tolist() == [0.25, -1.75, -1.75, 0.25]


def test_threshold_follows_spike_when() -> None:
    node = {"type": "Threshold", "threshold": np.array(1.0)}
    assert out(single(node), [0.5, 1, 2]) == [0, 0, 1]
    assert out(single(node), [0.5, 1, 2], spike_when="reaching") == [0, 1, 1]


def test_parameters_align_with_leading_axes() -> None:
    channels, rows = oracle.aligned([1.0, 2.0], (2, 3, 3)), oracle.aligned([[1.0, 2.0, 3.0]], (2, 3, 3))
    for index in np.ndindex(2, 3, 3):
        assert channels[index] == 1.0 + index[0]
        assert rows[index] == 1.0 + index[1]
    assert oracle.aligned(np.array([[[5.0]]]), (4,)).tolist() == [5.0] * 4
    with pytest.raises(ValueError, match="broadcast"):  # leading axes, not trailing ones
        oracle.aligned(np.ones(3), (2, 3))


# Sums and names


def test_sum_is_a_left_fold_in_name_order() -> None:
    values = {"10": 1e8, "9": 3.0, "a": -1e8, "é": 2.0, "𝛼": 1e-3}
    nodes = {name: {"type": "Scale", "scale": np.array(value)} for name, value in reversed(values.items())}
    raw = graph({**ends(), **nodes}, *(f"in {name} out" for name in nodes))
    total = np.float32(0)
    for name in sorted(values):
        total = np.float32(total + np.float32(values[name]))
    assert out(raw, [1.0]) == [total]
    assert total != np.float32(sum(values.values()))


def test_duplicate_edges_count_twice_and_unfed_nodes_receive_zero() -> None:
    bias = {"type": "Affine", "weight": np.ones((1, 1)), "bias": np.array([5.0])}
    assert out(graph({**ends(), "b": bias}, "in out", "in out", "b out"), [1, 2]) == [7, 9]


def test_nested_graphs() -> None:
    double = {"type": "Scale", "scale": np.array(2.0)}
    inner = graph({**ends(), "s": double}, "in s out")
    middle = graph({"i": inner, "s": double}, "i s")  # ends are invented: input_i and output_s
    raw = graph({**ends(), "g": middle, "h": inner}, "in g out", "g.i.s out", "in h.in", "h.out out")
    found = result(raw, [1.0])
    assert found.outputs["out"].ravel().tolist() == [4 + 2 + 2]
    assert set(found.node_outputs) == {
        *("in", "out", "g.i.in", "g.i.s", "g.i.out", "g.s", "g.input_i", "g.output_s", "h.in", "h.s", "h.out")
    }
    assert oracle.flatten(raw).nodes["g.i.in"]["type"] == "Identity"
    two = graph({"in1": ends()["in"], **ends()}, "in out", "in1 out")
    with pytest.raises(ValueError, match="2 candidates"):
        oracle.flatten(graph({**ends(), "g": two}, "in g out"))
    with pytest.raises(ValueError, match=r"g\.x: 0 candidates"):
        oracle.flatten(graph({**ends(), "g": inner}, "in g.x out"))
    with pytest.raises(ValueError, match=r"two nodes are named g\.s"):
        oracle.flatten(graph({**ends(), "g": inner, "g.s": double}, "in g out"))


def test_ends_are_invented_where_there_are_none() -> None:
    raw = graph({"b": neuron("I"), "a": neuron("I"), "c": neuron("I")}, "a c", "b c")
    flat = oracle.flatten(raw)
    assert set(flat.edges) == {("a", "c"), ("b", "c"), ("input_a", "a"), ("input_b", "b"), ("c", "output_c")}


# Delays and cycles


def test_delay_rounds_half_to_even() -> None:
    delays = np.array([0.5, 1.5, 2.5, 0.4999, 3.0])
    raw = graph({**ends(5), "n": {"type": "Delay", "delay": delays * 0.25}}, "in n out")
    x = np.arange(1, 6, dtype=np.float32)[:, None, None] * np.ones(5, np.float32)
    y = oracle.run(raw, {"in": x}, {"dt": 0.25}).outputs["out"][:, 0]
    assert y[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert y[:, 1].tolist() == y[:, 2].tolist() == [0, 0, 1, 2, 3]
    assert y[:, 3].tolist() == [1, 2, 3, 4, 5]
    assert y[:, 4].tolist() == [0, 0, 0, 1, 2]


def recurrent(**fields: Any) -> Node:
    """An IF neuron and a recurrent Affine of weight 2 and bias 0.5."""
    weight = {"type": "Affine", "weight": np.array([[2.0]]), "bias": np.array([0.5])}
    return graph({**ends(), "n": neuron("IF", **fields), "w": weight}, "in n out", "n w n")


def test_neuron_and_weight_by_hand() -> None:
    # The neuron's edges are delayed: w emits 0.5, 0.5, 2.5, 2.5 ...; u = 0.5, 1.5 fires, 2.5 fires, 2.5 fires.
    found = result(recurrent(), [0, 0.5, 0, 0])
    assert found.node_outputs["w"].ravel().tolist() == [0.5, 0.5, 2.5, 2.5]
    assert found.node_outputs["n"].ravel().tolist() == [0, 1, 1, 1]
    # The weight's edge is delayed: no bias at step 0. n receives 0, 0.5 + 0.5, 0.5, 2.5.
    found = result(recurrent(), [0, 0.5, 0, 0], feedback="weight-output")
    assert found.node_inputs["n"].ravel().tolist() == [0, 1, 0.5, 2.5]
    assert found.node_outputs["n"].ravel().tolist() == [0, 0, 1, 1]
    assert found.node_outputs["w"].ravel().tolist() == [0.5, 0.5, 2.5, 2.5]


def test_output_delay_takes_the_place_of_the_feedback_delay() -> None:
    found = result(recurrent(), [0, 0.5, 0, 0], output_delay=1)
    assert found.node_inputs["n"].ravel().tolist() == [0.5, 1, 2.5, 2.5]
    assert found.node_outputs["n"].ravel().tolist() == [0, 1, 1, 1]
    assert found.outputs["out"].ravel().tolist() == [0, 0, 1, 1]
    assert oracle.make_plan(oracle.flatten(recurrent()), {"output_delay": 1}).delayed == {("n", "w"), ("n", "out")}


@pytest.mark.parametrize("feedback", ["neuron-output", "weight-output"])
def test_a_delay_breaks_its_cycle_itself(feedback: str) -> None:
    raw = graph({**ends(), "n": neuron("I"), "d": {"type": "Delay", "delay": np.array(2.0)}}, "in n out", "n d n")
    assert oracle.make_plan(oracle.flatten(raw), {**STEP, "feedback": feedback}).delayed == frozenset()
    # v_t = v_{t-1} + x_t + v_{t-2}
    assert out(raw, [1, 0, 0, 0, 0], feedback=feedback) == [1, 1, 2, 3, 5]


def test_a_delay_with_a_zero_does_not() -> None:
    delay = {"type": "Delay", "delay": np.array([0.0, 1.0])}
    fire = {"type": "Threshold", "threshold": np.array(0.5)}
    raw = graph({**ends(2), "n": fire, "d": delay}, "in n out", "n d n")
    assert oracle.make_plan(oracle.flatten(raw), STEP).delayed == {("n", "d")}
    y = oracle.run(raw, {"in": np.array([1, 0, 0, 0], np.float32)[:, None, None] * np.ones(2, np.float32)}, STEP)
    assert y.outputs["out"][:, 0].T.tolist() == [[1, 1, 1, 1], [1, 0, 1, 0]]


def test_pass_three_delays_integrators() -> None:
    raw = graph({**ends(), "n": neuron("I")}, "in n out", "n n")
    assert oracle.make_plan(oracle.flatten(raw), STEP).delayed == {("n", "n")}
    assert out(raw, [1, 0, 0, 0]) == [1, 2, 4, 8]
    spiking = graph({**ends(), "n": neuron("I"), "s": neuron("IF")}, "in n s out", "s n")  # pass 2 suffices
    assert oracle.make_plan(oracle.flatten(spiking), STEP).delayed == {("s", "n")}


def test_reset_by_subtraction_from_standard_primitives() -> None:
    fire, back = {"type": "Threshold", "threshold": np.array(1.0)}, {"type": "Scale", "scale": np.array(-1.0)}
    raw = graph({**ends(), "i": neuron("I"), "t": fire, "s": back}, "in i t out", "t s i")
    x = [0.75, 0.5, 0.25, 1.5, 2.0, 0, 0, -0.5]
    assert out(raw, x) == out(single(neuron("IF")), x, reset="subtract") == [0, 1, 0, 1, 1, 1, 0, 0]


def test_algebraic_loops() -> None:
    scale = {"type": "Scale", "scale": np.array(1.0)}
    fire = {"type": "Threshold", "threshold": np.array(1.0)}
    with pytest.raises(oracle.AlgebraicLoop, match=r"\('a', 'b'\)"):
        oracle.make_plan(oracle.flatten(graph({**ends(), "a": scale, "b": scale}, "in a b a", "b out")), {})
    loop = oracle.flatten(graph({**ends(), "a": fire, "b": scale}, "in a b a", "b out"))
    assert oracle.make_plan(loop, {}).delayed == {("a", "b")}
    with pytest.raises(oracle.AlgebraicLoop):
        oracle.make_plan(loop, {"feedback": "weight-output"})


# Layers against torch, on a grid where every order of summation gives the same bits


def grid(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).integers(-16, 17, shape) / 16).astype(np.float32)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize(
    ("padding", "stride"), [((0, 0), (1, 1)), ((2, 1), (2, 3)), ("same", (1, 1)), ("valid", (3, 2))]
)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_are_torchs(groups: int, padding: Any, stride: tuple[int, int], dilation: tuple[int, int]) -> None:
    x, weight, bias = grid(3, 4, 7, 9), grid(8, 4 // groups, 2, 3), grid(8)
    fields = {"bias": bias, "groups": groups}
    node = {"type": "Conv2d", "weight": weight, "stride": stride, "padding": padding, "dilation": dilation, **fields}
    tensors = [torch.from_numpy(array) for array in (x, weight, bias)]
    expected = F.conv2d(*tensors, stride, padding, dilation, groups)
    assert np.array_equal(oracle.stateless(node, x, oracle.DEFAULTS), expected.numpy())

    one = {"stride": stride[1], "dilation": dilation[0], "padding": padding if isinstance(padding, str) else padding[0]}
    node = {"type": "Conv1d", "weight": weight[:, :, 0], **one, **fields}
    signal = torch.from_numpy(x[:, :, 0].copy())
    expected = F.conv1d(signal, torch.from_numpy(weight[:, :, 0].copy()), tensors[2], groups=groups, **one)
    assert np.array_equal(oracle.stateless(node, signal.numpy(), oracle.DEFAULTS), expected.numpy())


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [((2, 3), (1, 2), (1, 0)), ((3, 2), (2, 2), (0, 1)), (2, 2, 0)]
)
def test_pools_are_torchs(kernel: Any, stride: Any, padding: Any) -> None:
    x, fields = grid(2, 3, 7, 8), {"kernel_size": np.array(kernel), "stride": np.array(stride), "padding": padding}
    average = F.avg_pool2d(torch.from_numpy(x), kernel, stride, padding, count_include_pad=True).numpy()
    found = oracle.stateless({"type": "AvgPool2d", **fields}, x, oracle.DEFAULTS)
    np.testing.assert_allclose(found, average, rtol=2e-7, atol=1e-8)
    total = oracle.stateless({"type": "SumPool2d", **fields}, x, oracle.DEFAULTS)
    assert np.array_equal(total / np.float32(np.prod(oracle.pair(kernel))), found)


def test_linear_and_flatten_are_torchs() -> None:
    x, weight, bias = grid(5, 2, 3, 4), grid(2, 3, 6, 4), grid(2, 3, 6)
    expected = torch.einsum("gcoi,bgci->bgco", torch.from_numpy(weight), torch.from_numpy(x)) + torch.from_numpy(bias)
    affine = {"type": "Affine", "weight": weight.astype(np.float64), "bias": bias}
    assert np.array_equal(oracle.stateless(affine, x, oracle.DEFAULTS), expected.numpy())
    for start, end in ((0, -1), (1, 2), (0, 1), (-2, -1), (1, 1)):
        node = {"type": "Flatten", "start_dim": start, "end_dim": end}
        counted = [dim + 1 if dim >= 0 else dim for dim in (start, end)]
        assert np.array_equal(oracle.stateless(node, x, oracle.DEFAULTS), torch.from_numpy(x).flatten(*counted).numpy())


# The NIR paper's files


@paper
def test_the_lif_trace_of_the_paper() -> None:
    trace = np.loadtxt(PAPER / "lif" / "lif_norse.csv", delimiter=",")
    raw = oracle.read_raw(PAPER / "lif" / "lif_norse.nir")
    found = oracle.run(raw, {"input": trace[:, :1, None]}, {"dt": 1e-4})
    assert np.flatnonzero(found.outputs["output"]).tolist() == [460, 510, 710, 760]
    assert np.abs(found.v["1"].ravel() - trace[:, 1]).max() < 1e-6


@paper
def test_the_recurrent_network_of_the_paper() -> None:
    plain = oracle.read_raw(PAPER / "rnn" / "braille_noDelay_bias_zero.nir")
    nested = oracle.read_raw(PAPER / "rnn" / "braille_noDelay_bias_zero_nested.nir")
    x = {"input": (np.random.default_rng(0).random((100, 2, 12)) < 0.1).astype(np.float32)}
    found = oracle.run(plain, x, {}).outputs["output"]
    assert found.any()
    assert np.array_equal(found, oracle.run(nested, x, {}).outputs["output"])
    assert not np.array_equal(found, oracle.run(plain, x, {"feedback": "weight-output"}).outputs["output"])
    with pytest.raises(ValueError, match=r"lif1\.lif"):
        oracle.flatten(oracle.read_raw(PAPER / "rnn" / "broken_dangling_edge.nir"))


@paper
def test_the_convolutional_network_of_the_paper() -> None:
    raw = oracle.read_raw(PAPER / "cnn" / "cnn_sinabs.nir")
    x = (np.random.default_rng(0).random((20, 2, 2, 34, 34)) < 0.1).astype(np.float32)
    found = oracle.run(raw, {"input": x}, {"dt": 1.0})
    assert found.outputs["output"].shape == (20, 2, 10)
    assert all(found.node_outputs[name].any() for name in ("1", "3", "6", "10", "12"))


# The strategy


@given(cases())
@settings(max_examples=40)
def test_a_file_holds_a_whole_case(case: Case) -> None:
    file = BytesIO()
    write_raw(case.raw, file)
    again = oracle.run(oracle.read_raw(file), case.x, case.discretization)
    for name, value in case.expected.node_outputs.items():
        assert np.array_equal(again.node_outputs[name], value), name


def test_empty_graphs_can_be_written() -> None:
    file = BytesIO()
    write_raw({"type": "NIRGraph", "nodes": {"é": neuron("I")}, "edges": []}, file)
    assert oracle.read_raw(file)["edges"] == []


def test_the_strategy_draws_every_kind_of_graph() -> None:
    seen: Counter[str] = Counter()

    @given(cases())
    @settings(
        max_examples=200,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def look(case: Case) -> None:
        flat = oracle.flatten(case.raw)
        plan = oracle.make_plan(flat, case.discretization)
        cyclic = oracle.cyclic(set(flat.edges))
        kind = {name: node["type"] for name, node in flat.nodes.items()}
        top = {node["type"] for node in case.raw["nodes"].values()}
        seen.update(set(kind.values()) | {f"{n}={v}" for n, v in case.discretization.items()})
        seen["cases"] += 1
        seen["cyclic"] += bool(cyclic)
        seen["delay in a cycle"] += any(kind[b] == "Delay" for _, b in cyclic)
        seen["cycle broken by a delay"] += bool(plan.late)
        seen["pass 3"] += any(kind[a] in ("I", "LI", "CubaLI", "Delay") for a, _ in plan.delayed)
        seen["nested"] += "NIRGraph" in top
        seen["no Input"] += "Input" not in top
        seen["no Output"] += "Output" not in top
        seen["several inputs"] += len(case.x) > 1
        seen["exact layers"] += bool(case.exact_layers)
        for name, emitted in case.expected.node_outputs.items():
            assert np.isfinite(emitted).all()
            seen["spiking"] += kind[name] in oracle.SPIKING
            seen["firing"] += kind[name] in oracle.SPIKING and bool(emitted.any())

    look()
    print(sorted(seen.items(), key=lambda item: -item[1]))
    assert seen["cases"] >= 190
    assert seen["firing"] > 0.6 * seen["spiking"]
    assert min(seen[name] for name in ("cyclic", "nested", "exact layers", "several inputs")) > 30
    primitives = (
        "I IF LI LIF CubaLI CubaLIF Linear Affine Scale Conv1d Conv2d SumPool2d AvgPool2d Flatten Threshold Delay"
    )
    assert min(seen[name] for name in (*primitives.split(), "no Input", "no Output", "delay in a cycle", "pass 3")) > 3
