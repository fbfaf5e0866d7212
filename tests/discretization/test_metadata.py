"""The Discretization in a file: what `to_nir` writes is how `load` runs it; malformed metadata are refused by name."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from nir_files import write_raw
from raw_nodes import chain, node, terminal
from stateful import built
from torch import Tensor

import neurocuda
from neurocuda import ArgumentError, Discretization, Executor, GraphError, NeuroCUDAWarning, nn
from neurocuda.discretization.metadata import FORMAT, NAMESPACE, resolve, stated, written
from neurocuda.discretization.settings import NATIVE, PRESETS
from neurocuda.verify import verify

HAND_MADE = {
    "default": Discretization(),
    "another dt": Discretization(dt=2.5e-3),
    "subtracting": Discretization(reset="subtract"),
    "counting": Discretization(spikes_per_step="many", spike_when="reaching", reset="subtract"),
    "exponential": Discretization(dt=1e-3, integrator="exponential", synapse="previous"),
    "by class": Discretization(dt=1e-3, gain={"LIF": "g", "synapse": "w_in"}, clamp={"LIF": "zero"}, output_delay=1),
    "delayed reset": Discretization(dt=1e-3, reset="subtract", reset_delay="LIF:1", initial_state="v_leak"),
    "to zero": Discretization(dt=1e-3, reset_to="zero", initial_state="v_reset", feedback="weight-output"),
}
SETTINGS = {**PRESETS, **{f"{name}, native": Discretization.preset(name, native=True) for name in NATIVE}, **HAND_MADE}
NEURONS = ("IF", "LIF", "CubaLIF")


def drive() -> Tensor:
    return (torch.rand(40, 3, 10, generator=torch.Generator().manual_seed(1)) < 0.3).float()


def linear() -> torch.nn.Linear:
    layer = torch.nn.Linear(10, 8, bias=False)
    drawn = torch.rand(8, 10, generator=torch.Generator().manual_seed(2))
    layer.weight.data = (drawn * 8).round() / 16
    return layer


def neuron(kind: str, d: Discretization) -> torch.nn.Module:
    """A neuron that fires at some steps, whichever gain its input has."""
    options: dict[str, Any] = {"v_threshold": 0.75, "v_reset": -0.125, "discretization": d}
    if kind == "IF":
        return nn.IF(**options)
    leaky = {**options, "v_leak": 0.0625, "r": 1.0 if d.gain_of(kind) in ("r", "1") else 4.0}
    if kind == "LIF":
        return nn.LIF(tau=4 * d.dt, **leaky)
    return nn.CubaLIF(tau_mem=4 * d.dt, tau_syn=2 * d.dt, w_in=1.0, **leaky)


def loaded_in_silence(*arguments: Any, **changes: Any) -> Executor:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return neurocuda.load(*arguments, **changes)


@pytest.mark.parametrize("kind", NEURONS)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_written_network_is_loaded_as_it_ran(name: str, kind: str, tmp_path: Path) -> None:
    d, x = SETTINGS[name], drive()
    model = torch.nn.Sequential(linear(), neuron(kind, d))
    expected = model(x)
    assert 0.05 < expected.gt(0).float().mean() < 0.95
    neurocuda.to_nir(model, tmp_path / "a.nir", x)
    net = loaded_in_silence(tmp_path / "a.nir")
    assert net.discretization == d
    assert int((net(x)[0] != expected).sum()) == 0
    assert expected.numel() == 960
    neurocuda.to_nir(net, tmp_path / "b.nir")
    assert int((loaded_in_silence(tmp_path / "b.nir")(x)[0] != expected).sum()) == 0
    nir.write(tmp_path / "c.nir", nir.read(tmp_path / "a.nir"))  # another tool keeps what it does not know
    assert int((loaded_in_silence(tmp_path / "c.nir")(x)[0] != expected).sum()) == 0


def loop(
    d: Discretization, *, level: float = 0.5, start: float = 0.0, after: Mapping[str, Any] | None = None
) -> Executor:
    """A soft reset with threshold 1 in standard NIR, and perhaps nodes after it.

    level: of its Threshold; the membrane potential is 1 - level lower than that of the neuron. start: of its I.
    """
    each = np.ones(8)
    r = each / d.dt if d.gain_of("IF") == "r*g" else each
    nodes = {
        "in": terminal("Input", (10,)),
        "fc": {"type": "Linear", "weight": linear().weight.detach().numpy()},
        "i": {"type": "I", "r": r, "metadata": {"neurocuda.initial_v": start} if start else {}},
        "t": {"type": "Threshold", "threshold": level * each},
        "s": {"type": "Scale", "scale": -each},
        **(after or {}),
        "out": terminal("Output", (8,)),
    }
    last = ["t", *(after or {}), "out"]
    edges = [("in", "fc"), ("fc", "i"), ("i", "t"), ("t", "s"), ("s", "i"), *pairwise(last)]
    return Executor(built({"type": "NIRGraph", "nodes": nodes, "edges": edges}), d)


@pytest.mark.parametrize("start", [0.0, 0.25])
@pytest.mark.parametrize("level", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_soft_reset_written_as_if_is_loaded_as_it_ran(name: str, level: float, start: float, tmp_path: Path) -> None:
    x, net = drive(), loop(SETTINGS[name], level=level, start=start)
    expected, _ = net(x)
    assert 0.05 < expected.mean() < 0.95
    with pytest.warns(NeuroCUDAWarning, match=r"reset='if': 1 populations are written as nir\.IF"):
        graph = neurocuda.to_nir(net, tmp_path / "a.nir", reset="if")
    assert {n.type for n in graph.nodes.values()} == {"Input", "Linear", "IF", "Output"}
    again = loaded_in_silence(tmp_path / "a.nir")
    assert int((again(x)[0] != expected).sum()) == 0
    neurocuda.to_nir(again, tmp_path / "b.nir")
    assert int((loaded_in_silence(tmp_path / "b.nir")(x)[0] != expected).sum()) == 0
    nir.write(tmp_path / "c.nir", nir.read(tmp_path / "a.nir"))
    assert int((loaded_in_silence(tmp_path / "c.nir")(x)[0] != expected).sum()) == 0


def test_a_converted_network_written_as_if_is_loaded_as_it_ran(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torch.rand(64, 10)
    model = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))
    snn = neurocuda.convert(model, data, timesteps=16, readout_delay=4, report=False, dt=1e-3)
    x = data[:3].expand(40, 3, 10).contiguous()
    expected, _ = snn.network(x)
    with pytest.warns(NeuroCUDAWarning, match="reset='if'"):
        neurocuda.to_nir(snn, tmp_path / "a.nir", reset="if")
    net = loaded_in_silence(tmp_path / "a.nir")
    assert [n.type for n in net.graph.nodes.values()].count("IF") == 1
    assert int((net(x)[0] != expected).sum()) == 0
    assert expected.numel() == 960


def test_a_loop_beside_neurons_that_reset_otherwise_is_not_written_as_if(tmp_path: Path) -> None:
    lif = {"lif": node("LIF", tau=8.0, r=8.0)}
    with pytest.raises(
        ArgumentError, match=r"reset: expected 'loop' for a network with the neuron 'lif', .*found 'if'"
    ):
        neurocuda.to_nir(loop(Discretization(dt=1.0), after=lif), tmp_path / "a.nir", reset="if")
    assert not (tmp_path / "a.nir").exists()
    net = loop(Discretization(dt=1.0, reset="subtract"), after=lif)
    with pytest.warns(NeuroCUDAWarning, match="reset='if'"):
        neurocuda.to_nir(net, tmp_path / "a.nir", reset="if")
    assert torch.equal(loaded_in_silence(tmp_path / "a.nir")(drive())[0], net(drive())[0])


FILE = Discretization(dt=1e-3, spike_when="reaching", gain="IF:r")


def stating(d: Discretization = FILE, **more: Any) -> Any:
    return built(chain({"n": node("LIF")}, metadata=written(d, more)))


@pytest.mark.parametrize(
    ("given", "expected", "origin", "told"),
    [
        ({}, FILE, "from the file", ""),
        ({"dt": 1e-3}, FILE, "from the file, with dt=0.001", ""),
        ({"dt": 2e-3}, replace(FILE, dt=2e-3), "from the file, with dt=0.002", "dt=0.001|dt=0.002"),
        ({"discretization": FILE}, FILE, "given", ""),
        (
            {"discretization": Discretization()},
            Discretization(),
            "given",
            "dt=0.001, spike_when='reaching', gain='IF:r'|dt=0.0001, spike_when='above', gain='r*g'",
        ),
        (
            {"discretization": replace(FILE, reset="subtract"), "dt": 2e-3},
            replace(FILE, reset="subtract", dt=2e-3),
            "given, with dt=0.002",
            "dt=0.001, reset='to-value'|dt=0.002, reset='subtract'",
        ),
    ],
)
def test_an_argument_changes_what_it_names(given: Any, expected: Discretization, origin: str, told: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = neurocuda.load(stating(), **given)
    assert net.discretization == expected
    assert f"{expected} ({origin})" in repr(net)
    assert f"({origin})" in repr(pickle.loads(pickle.dumps(net)))
    before, _, now = told.partition("|")
    stated_ = [f"memory: the file states {before}, but is run with {now}"] if told else []
    assert [str(w.message) for w in caught] == [line.replace("memory", net.graph.source) for line in stated_]
    assert all(w.category is NeuroCUDAWarning and w.filename == __file__ for w in caught)


def test_a_file_that_states_nothing_runs_with_the_default() -> None:
    graph = built(chain({"n": node("LIF")}, metadata={"who": "a tool"}))
    assert "(default)" in repr(loaded_in_silence(graph))
    net = loaded_in_silence(graph, dt=1e-3)
    assert net.discretization == Discretization(dt=1e-3)
    assert "(default, with dt=0.001)" in repr(net)


def test_every_function_runs_a_graph_as_its_file_states(tmp_path: Path) -> None:
    graph = stating(Discretization(dt=1e-3, spike_when="reaching"))
    other = Discretization(dt=1e-3)
    assert Executor(graph).discretization == stated(graph)
    neurocuda.write(graph, tmp_path / "a.nir")
    functions: dict[str, Any] = {
        "certify": lambda *d: neurocuda.certify(graph, *d),
        "quantize": lambda *d: neurocuda.quantize(graph, discretization=d[0] if d else None),
        "verify": lambda *d: verify(tmp_path / "a.nir", *d, steps=3, batch=2),
    }
    for name, function in functions.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            function()
            function(stated(graph))
        with pytest.warns(
            NeuroCUDAWarning, match="the file states spike_when='reaching', but is run with.*above"
        ) as told:
            function(other)
        assert len(told) == 1, name


@pytest.mark.parametrize("given", ["norse", {"dt": 1e-3}, 1e-3, PRESETS])
def test_only_a_discretization_is_taken(given: Any) -> None:
    graph = stating()
    for function in (neurocuda.load, neurocuda.certify, lambda g, d: neurocuda.quantize(g, discretization=d)):
        with pytest.raises(ArgumentError, match=r"discretization: expected a Discretization.*, found .* \(\w+\)"):
            function(graph, given)


def test_quantized_weights_state_the_discretization_they_are_meant_for() -> None:
    graph, other = stating(timesteps=8), replace(FILE, reset="subtract")
    with pytest.warns(NeuroCUDAWarning, match="the file states reset='to-value'"):
        result = neurocuda.quantize(graph, discretization=other).graph
    assert stated(result) == other
    assert result.metadata[NAMESPACE]["timesteps"] == 8
    silent = built(chain({"n": node("LIF")}))
    assert stated(neurocuda.quantize(silent, discretization=other).graph) is None


def space(**changes: Any) -> dict[str, Any]:
    return {NAMESPACE: {"format": FORMAT, "discretization": {"dt": 1e-3}} | changes}


def field(name: str, value: Any) -> dict[str, Any]:
    return space(discretization={"dt": 1e-3, name: value})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({NAMESPACE: "x" * 10**6}, r"field 'neurocuda': expected a group, found 'x+'\.\.\."),
        ({NAMESPACE: {"colour": 1}}, r"field 'neurocuda.format': expected 1, found none"),
        (space(format=2), r"field 'neurocuda.format': expected 1, found 2 \(a newer version wrote it\)"),
        (space(format="1"), r"field 'neurocuda.format': expected 1, found '1'"),
        (space(format=True), r"field 'neurocuda.format': expected 1, found True"),
        (space(format=np.array([1, 1])), r"field 'neurocuda.format': expected 1, found \[1, 1\]"),
        (space(format={"a": 1}), r"field 'neurocuda.format': expected 1, found a group"),
        (space(discretization="lif"), r"field 'discretization': expected a group of fields, found 'lif'"),
        (space(discretization=np.ones(10**6)), r"expected a group of fields, found an array of shape \(1000000,\)"),
        (
            field("colour", "red"),
            r"field 'discretization': expected one of the fields clamp, dt, .*found a field 'colour'",
        ),
        (field("x" * 10**6, 1), r"found a field 'x+'\.\.\."),
        (field("dt", "1e-3"), r"field 'discretization.dt': expected a number, found '1e-3'"),
        (field("dt", True), r"field 'discretization.dt': expected a number, found True"),
        (field("dt", np.array([1e-3, 2e-3])), r"field 'discretization.dt': expected a number, found \[0.001, 0.002\]"),
        (field("dt", np.zeros(0)), r"field 'discretization.dt': expected a number, found \[\]"),
        (field("dt", np.ones((1, 1))), r"field 'discretization.dt': expected a number, found \[\[1.0\]\]"),
        (field("dt", 1e-3j), r"field 'discretization.dt': expected a number, found"),
        (field("dt", -1e-3), r"field 'discretization.dt': expected seconds > 0, found -0.001"),
        (field("dt", np.float32(np.nan)), r"field 'discretization.dt': expected seconds > 0, found nan"),
        (field("dt", np.inf), r"field 'discretization.dt': expected seconds > 0, found inf"),
        (field("dt", {"value": 1}), r"field 'discretization.dt': expected a number, found a group"),
        (field("gain", 1.5), r"field 'discretization.gain': expected a text of at most 200 characters, found 1.5"),
        (field("gain", "IF:" * 10**6), r"expected a text of at most 200 characters, found 'IF:IF:"),
        (field("gain", "XIF:r"), r"field 'discretization.gain': expected one of the classes .*found 'XIF'"),
        (field("gain", {"IF": "r"}), r"field 'discretization.gain': expected a text of .*, found a group"),
        (field("reset", "soft, found b"), r"field 'discretization.reset': expected one of .*, found 'soft, found b'"),
        (field("reset", ["subtract", "subtract"]), r"field 'discretization.reset': expected a text of"),
        (field("output_delay", 7), r"field 'discretization.output_delay': expected one of 0, 1, found 7"),
        (field("output_delay", 1.0), r"field 'discretization.output_delay': expected an integer, found 1.0"),
        (field("reset_delay", 2), r"field 'discretization.reset_delay': expected for IF one of '0', '1', found 2"),
        (
            field("spikes_per_step", "many"),
            r"field 'discretization.spikes_per_step': expected spike_when='reaching' and",
        ),
    ],
)
def test_malformed_metadata_are_refused_by_name(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    raw = chain({"n": node("LIF")}, metadata=metadata)
    graphs: list[Any] = [built(raw)]
    try:
        write_raw(raw, tmp_path / "a.nir")
    except (TypeError, ValueError):  # what HDF5 cannot hold comes from a graph in memory alone
        pass
    else:
        graphs.append(tmp_path / "a.nir")
    for graph in graphs:
        with pytest.raises(GraphError, match=message) as caught:
            neurocuda.load(graph)
        assert len(str(caught.value)) < 1000
        (problem,) = caught.value.problems
        assert (problem.where, problem.error) == ("metadata", GraphError)


def test_fields_that_a_file_lacks_take_their_default() -> None:
    assert stated(built(chain({"n": node("LIF")}, metadata=space()))) == Discretization(dt=1e-3)
    for one in fields(Discretization):
        graph = stating(PRESETS["spyx"])
        values = {k: v for k, v in graph.metadata[NAMESPACE]["discretization"].items() if k != one.name}
        found = stated(replace(graph, metadata=space(discretization=values)))
        assert found == replace(PRESETS["spyx"], **{one.name: one.default}, if_gain=None), one.name


OLD = {
    "dt": 1e-3,
    "integrator": "euler",
    "spike_when": "reaching",
    "reset": "to-value",
    "synapse": "updated",
    "spikes_per_step": "one",
    "if_gain": "r",
    "feedback": "neuron-output",
    "output_delay": 0,
}
VERSIONS = {"neurocuda": "0.1.0", "torch": "2.6.0", "nir": "1.0.8"}


@pytest.mark.parametrize(
    ("reset", "expected"), [("loop", FILE), ("if", replace(FILE, reset="subtract")), (np.ones(3), FILE)]
)
def test_files_of_version_0_1_are_read(reset: Any, expected: Discretization, tmp_path: Path) -> None:
    metadata = {"dt": 1e-3, "discretization": OLD, "versions": VERSIONS, "reset": reset}
    write_raw(chain({"n": node("LIF")}, metadata=metadata), tmp_path / "a.nir")
    net = loaded_in_silence(tmp_path / "a.nir")
    assert net.discretization == expected
    assert "(from the file)" in repr(net)
    with pytest.warns(NeuroCUDAWarning, match="the file states dt=0.001, but is run with dt=0.0001"):
        neurocuda.load(tmp_path / "a.nir", dt=1e-4)


@pytest.mark.parametrize("metadata", [{"dt": 1e-3}, {"discretization": "mine"}, {"versions": {"tool": "1"}}])
def test_metadata_of_other_tools_state_no_discretization(metadata: dict[str, Any]) -> None:
    graph = built(chain({"n": node("LIF")}, metadata=metadata))
    assert stated(graph) is None
    assert resolve(graph).origin == "default"
