"""`verify`: the comparison, the trials, and that a fault in any trial is found and named."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch
from make_nir import graph, input_, neuron, numbers, output
from nir_files import write_raw
from places import PAPER
from torch import Tensor

import neurocuda
from neurocuda import ArgumentError, Discretization, Executor, GraphError, State
from neurocuda.verify import (
    Difference,
    drawn_input,
    first_difference,
    library_layers,
    rewrite_in_other_order,
    state_difference,
    trials,
    verify,
)

PAPER_GRAPHS = {
    "lif/lif_norse.nir": Discretization(),
    "lif/lif_rockpool.nir": Discretization.rockpool(),
    "rnn/braille_noDelay_bias_zero.nir": Discretization(),
    "rnn/braille_noDelay_bias_zero_nested.nir": Discretization.norse(dt=1e-4),
    "cnn/cnn_sinabs.nir": Discretization.sinabs(),
}
NEXT = float(np.nextafter(np.float32(1), np.float32(2)))


def signals(**steps: list[float]) -> dict[str, dict[str, Tensor]]:
    """Recordings of the outputs of nodes, one sample of one element."""
    return {name: {"output": torch.tensor(values).reshape(-1, 1, 1)} for name, values in steps.items()}


@pytest.mark.parametrize(
    ("found", "order", "expected"),
    [
        (signals(a=[0, 1, 2], b=[0, 1, 2]), "ab", None),
        (signals(a=[-0.0, 1, 2], b=[0, 1, 2]), "ab", None),
        (signals(a=[0, 1, 2], b=[0, NEXT, 2]), "ab", ("b", 1, 1.0, NEXT)),
        (signals(a=[0, 1, 3], b=[0, 4, 2]), "ab", ("b", 1, 1.0, 4.0)),
        (signals(a=[0, 1, 3], b=[0, 1, 4]), "ab", ("a", 2, 2.0, 3.0)),
        (signals(a=[0, 1, 3], b=[0, 1, 4]), "ba", ("b", 2, 2.0, 4.0)),
        (signals(a=[9, 9, 9], b=[8, 8, 8]), "ba", ("b", 0, 0.0, 8.0)),
    ],
)
def test_first_difference(
    found: dict[str, dict[str, Tensor]], order: str, expected: tuple[str, int, float, float] | None
) -> None:
    difference = first_difference(signals(a=[0, 1, 2], b=[0, 1, 2]), found, tuple(order))
    if expected is None:
        assert difference is None
    else:
        node, step, was, became = expected
        assert difference == Difference(node, "output", step, (0, 0), was, became)


def test_first_difference_names_the_element_and_counts_steps_from_the_start() -> None:
    whole = torch.arange(24.0).reshape(4, 2, 3)
    rest = whole[1:].clone()
    rest[2, 1, 0] += 1
    difference = first_difference({"n": {"v": whole}}, {"n": {"v": rest}}, ("n",), start=1)
    assert difference == Difference("n", "v", 3, (1, 0), 21.0, 22.0)
    assert str(difference) == "node 'n', 'v' at step 3, index (1, 0): 21.0 (0x41a80000) became 22.0 (0x41b00000)"


def test_nan_equals_nan_and_nothing_else() -> None:
    with_nan, without = signals(a=[math.nan, 1]), signals(a=[0, 1])
    assert first_difference(with_nan, with_nan, ("a",)) is None
    assert first_difference(with_nan, without, ("a",)) is not None
    assert first_difference(without, with_nan, ("a",)) is not None


def test_recordings_of_other_shapes_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"node 'a', 'output': expected shape \(2, 1, 1\), found \(3, 1, 1\)"):
        first_difference(signals(a=[0, 1]), signals(a=[0, 1, 2]), ("a",))


def test_state_difference_follows_the_order_of_the_nodes() -> None:
    ours = State({"a.v": torch.zeros(2, 1), "b.c.i": torch.zeros(2, 1), "b.c.v": torch.zeros(2, 1)})
    other = State({name: tensor.clone() for name, tensor in ours.tensors.items()})
    assert state_difference(ours, other, ("a", "b.c"), 7) is None
    other.tensors["a.v"][1] = 1
    other.tensors["b.c.i"][0] = 2
    assert state_difference(ours, other, ("a", "b.c"), 7) == Difference("a", "state v", 7, (1, 0), 0.0, 1.0)
    assert state_difference(ours, other, ("b.c", "a"), 7) == Difference("b.c", "state i", 7, (0, 0), 0.0, 2.0)


def spiking(size: int) -> dict[str, Any]:
    return {
        "type": "LIF",
        "tau": np.full(size, 3e-4),
        "r": np.full(size, 2.0),
        "v_leak": np.zeros(size),
        "v_threshold": np.linspace(0.5, 1.0, size),
        "v_reset": np.zeros(size),
    }


def tangled() -> dict[str, Any]:
    """Two Inputs and Outputs, a nested graph, a cycle, a delay in a cycle, duplicate edges, arbitrary floats."""
    numbers = np.random.default_rng(7)

    def affine(out: int, size: int) -> dict[str, Any]:
        weight = numbers.normal(0.2, 0.5, (out, size)).astype(np.float32)
        return {"type": "Affine", "weight": weight, "bias": numbers.normal(0, 0.1, out).astype(np.float32)}

    inner = {
        "type": "NIRGraph",
        "nodes": {
            "in": {"type": "Input", "shape": np.array([5])},
            "lif": spiking(5),
            "w": affine(5, 5),
            "out": {"type": "Output", "shape": np.array([5])},
        },
        "edges": [("in", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "out")],
    }
    return {
        "type": "NIRGraph",
        "nodes": {
            "right": {"type": "Input", "shape": np.array([4])},
            "left": {"type": "Input", "shape": np.array([3])},
            "fc_right": affine(5, 4),
            "fc_left": affine(5, 3),
            "net": inner,
            "late": {"type": "Delay", "delay": np.array([1e-4, 2e-4, 3e-4, 1e-4, 5e-4])},
            "back": affine(5, 5),
            "spikes": {"type": "Output", "shape": np.array([5])},
            "raw": {"type": "Output", "shape": np.array([5])},
        },
        "edges": [
            ("right", "fc_right"),
            ("left", "fc_left"),
            ("fc_right", "net"),
            ("fc_left", "net"),
            ("fc_left", "net"),
            ("net", "late"),
            ("late", "back"),
            ("back", "net.lif"),
            ("net", "spikes"),
            ("fc_right", "raw"),
        ],
    }


@pytest.fixture
def tangled_file(tmp_path: Path) -> Path:
    write_raw(tangled(), tmp_path / "tangled.nir")
    return tmp_path / "tangled.nir"


def feedforward(path: Path, size: int = 6) -> Path:
    """input -> fc -> lif -> output, weights of arbitrary floats."""
    numbers = np.random.default_rng(3)
    nodes = {
        "input": nir.Input({"input": np.array([size])}),
        "fc": nir.Linear(numbers.normal(0.2, 0.4, (4, size)).astype(np.float32)),
        "lif": nir.LIF(*(np.full(4, value) for value in (3e-4, 2.0, 0.0, 1.0, 0.0))),
        "output": nir.Output({"output": np.array([4])}),
    }
    nir.write(str(path), nir.NIRGraph(nodes, [("input", "fc"), ("fc", "lif"), ("lif", "output")]))
    return path


@pytest.fixture
def chain_file(tmp_path: Path) -> Path:
    return feedforward(tmp_path / "chain.nir")


def order_in_file(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    with h5py.File(path) as file:
        return list(file["node/nodes"]), [tuple(end.decode() for end in edge) for edge in file["node/edges"][()]]


def test_rewritten_files_differ_in_order_and_hold_the_same_graph(tangled_file: Path, tmp_path: Path) -> None:
    original = neurocuda.read(tangled_file)
    orders = [order_in_file(tangled_file)]
    for seed in (1, 2, 3):
        target = tmp_path / f"other{seed}.nir"
        rewrite_in_other_order(tangled_file, target, seed)
        nodes, edges = order_in_file(target)
        assert sorted(nodes) == sorted(orders[0][0])
        assert sorted(edges) == sorted(orders[0][1])
        orders.append((nodes, edges))
        graph = neurocuda.read(target)
        assert graph.edges == original.edges
        assert list(graph.nodes) == list(original.nodes)
        for name, node in graph.nodes.items():
            assert set(node.parameters) == set(original.nodes[name].parameters)
            for field in node.parameters:
                assert np.array_equal(node.parameters[field], original.nodes[name].parameters[field])
    assert len({tuple(nodes) for nodes, _ in orders}) == 4
    assert len({tuple(edges) for _, edges in orders}) == 4


def test_drawn_input_is_the_same_every_time(tangled_file: Path) -> None:
    graph = neurocuda.read(tangled_file)
    x, again = drawn_input(graph, 40, 3), drawn_input(graph, 40, 3)
    assert {name: tuple(signal.shape) for name, signal in x.items()} == {"left": (40, 3, 3), "right": (40, 3, 4)}
    assert all(torch.equal(x[name], again[name]) for name in x)
    assert set(x["right"].flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert 0.2 < float((x["right"] > 0).float().mean()) < 0.4


@pytest.mark.parametrize(("steps", "batch", "name"), [(0, 4, "steps"), (5, 0, "batch"), (-1, 1, "steps")])
def test_empty_inputs_are_refused(chain_file: Path, steps: int, batch: int, name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name}: expected an integer >= 1"):
        verify(chain_file, steps=steps, batch=batch)
    with pytest.raises(ArgumentError, match="at least one step of one sample"):
        verify(chain_file, x={"input": torch.zeros(max(steps, 0), max(batch, 0), 6)})


@pytest.mark.parametrize(("name", "discretization"), PAPER_GRAPHS.items(), ids=list(PAPER_GRAPHS))
def test_published_graphs(name: str, discretization: Discretization) -> None:
    if not PAPER.exists():
        pytest.skip("the published graphs of the NIR paper are not beside this repository")
    report = verify(PAPER / name, discretization, steps=8, batch=2)
    assert report.ok, report.trials
    assert (report.steps, report.batch, report.library) == (8, 2, ())


def test_all_trials_of_a_tangled_graph(tangled_file: Path) -> None:
    threads = torch.get_num_threads()
    report = verify(tangled_file, steps=40, batch=5)
    assert report.ok, report.trials
    assert torch.get_num_threads() == threads
    assert report.spikes > 50
    assert report.nodes == 12
    assert [trial.way for trial in report.trials] == [
        "in chunks of 1 step",
        "in chunks of 7 steps",
        "in chunks of 32 steps",
        "in chunks of 40 steps",
        "batch split into halves",
        "batch split into single samples",
        "nodes and edges of the file in another order (1)",
        "nodes and edges of the file in another order (2)",
        "nodes and edges of the file in another order (3)",
        "stopped and resumed at every step",
        "resumed from a saved state at step 5, 9, 10, 17, 21, 29, 33, 38",
        "on 1 thread",
        "on 2 threads",
    ]


def test_a_short_run_is_resumed_at_each_step_and_one_sample_is_not_split(chain_file: Path) -> None:
    ways = [trial.way for trial in verify(chain_file, steps=4, batch=1).trials]
    assert ways[:2] == ["in chunks of 1 step", "in chunks of 4 steps"]
    assert "resumed from a saved state at step 1, 2, 3" in ways
    assert not [way for way in ways if "batch" in way]
    assert not [way for way in [trial.way for trial in verify(chain_file, steps=1).trials] if "resumed" in way]


def test_an_explicit_input(chain_file: Path) -> None:
    report = verify(chain_file, x={"input": torch.rand(9, 2, 6)})
    assert report.ok
    assert (report.steps, report.batch) == (9, 2)
    with pytest.raises(ArgumentError, match="input 'input'"):
        verify(chain_file, x={"input": torch.rand(9, 2, 5)})


FAULTS: dict[str, Callable[[Executor, dict[str, Tensor], State | None], bool]] = {
    "in chunks of 7 steps": lambda net, x, state: net.chunk == 7,
    "batch split into halves": lambda net, x, state: x["input"].shape[1] == 2,
    "batch split into single samples": lambda net, x, state: x["input"].shape[1] == 1,
    "nodes and edges of the file in another order (2)": lambda net, x, state: net.graph.source.endswith("order2.nir"),
    "resumed at step 5 from a saved state": lambda net, x, state: state is not None and x["input"].shape[0] > 1,
    "on 2 threads": lambda net, x, state: torch.get_num_threads() == 2 and net.chunk is None,
}


@pytest.mark.parametrize("way", FAULTS)
def test_a_fault_in_any_trial_is_found_and_named(chain_file: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    class Faulty(Executor):
        """Changes the last bit of one value of 'fc' in the faulty trial."""

        def run(self, x: Any, state: State | None = None, record: Any = None) -> neurocuda.RunResult:
            result = super().run(x, state, record)
            if FAULTS[way](self, x, state):
                moved = result.recordings["fc"]["output"]
                moved[-1, 0, 3] = torch.nextafter(moved[-1, 0, 3], torch.tensor(torch.inf))
            return result

    monkeypatch.setattr(trials, "Executor", Faulty)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        report = verify(chain_file, steps=40, batch=4)
    finally:
        torch.set_num_threads(threads)
    assert [trial.way for trial in report.trials if trial.difference is not None] == [way]
    assert not report.ok
    difference = next(trial.difference for trial in report.trials if trial.difference is not None)
    assert (difference.node, difference.quantity, difference.step) == ("fc", "output", 39)
    assert difference.index[1:] == (3,)
    assert np.nextafter(np.float32(difference.expected), np.float32(np.inf)) == np.float32(difference.found)


def test_a_state_that_is_lost_on_resuming_is_found(chain_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Executor):
        def run(self, x: Any, state: State | None = None, record: Any = None) -> neurocuda.RunResult:
            return super().run(x, None, record)

    monkeypatch.setattr(trials, "Executor", Forgetful)
    report = verify(chain_file, steps=20, batch=3)
    failed = {trial.way: trial.difference for trial in report.trials if trial.difference is not None}
    assert list(failed) == ["stopped and resumed at every step", "resumed at step 3 from a saved state"]
    for difference in failed.values():
        assert difference is not None
        assert difference.node == "lif"


def test_library_layers_are_named_and_may_differ(tmp_path: Path) -> None:
    path = feedforward(tmp_path / "wide.nir", size=400)
    report = verify(path, steps=6, batch=3, force={"fc": "library"})
    assert report.library == ("fc",)
    for trial in report.trials:
        assert trial.difference is None or trial.difference.node in ("fc", "lif", "output")
    assert library_layers(Executor(neurocuda.read(path)), drawn_input(neurocuda.read(path), 6, 3)) == ()
    assert verify(path, steps=6, batch=3).ok


@pytest.mark.parametrize(("scale", "kept"), [(1.0, True), (0.3, False)])
def test_proofs_for_other_inputs_are_not_tried(tmp_path: Path, scale: float, kept: bool) -> None:
    layer = {"type": "Affine", "weight": numbers("w").integers(-90, 91, (30, 300)) / 64, "bias": np.ones(30)}
    raw = graph("input>fc fc>lif lif>output", input=input_(300), fc=layer, lif=neuron("LIF", 30), output=output(30))
    write_raw(raw, tmp_path / "exact.nir")
    x = {"input": torch.from_numpy(numbers("x").integers(0, 4, (9, 3, 300)).astype("f4")) * scale}
    report = verify(tmp_path / "exact.nir", x=x)
    assert report.ok, [str(trial.difference) for trial in report.trials if trial.difference]
    assert any(trial.way == "layers proved exact, library sums" for trial in report.trials) == kept
    forced = Executor(neurocuda.read(tmp_path / "exact.nir"), force={"fc": "library"})
    assert library_layers(forced, x) == (() if kept else ("fc",))


def test_a_graph_with_problems_is_not_run(tmp_path: Path) -> None:
    raw = tangled()
    raw["nodes"]["late"]["delay"] = np.zeros(5)
    raw["nodes"]["fc_left"]["weight"] = np.full((5, 3), np.nan, np.float32)
    write_raw(raw, tmp_path / "broken.nir")
    with pytest.raises(GraphError, match="node 'fc_left', field 'weight': expected finite numbers"):
        verify(tmp_path / "broken.nir")
