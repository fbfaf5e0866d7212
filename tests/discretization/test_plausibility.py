"""Warnings of graphs that are probably meant for another discretization, and the one that "auto" chooses."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from paper import FOLDER, needs_paper
from raw_nodes import Raw, chain, node
from strategies import Case, cases
from test_exporters import EXPORTS, network, read, written

import neurocuda
from neurocuda import ArgumentError, Discretization, NeuroCUDAWarning
from neurocuda.discretization import PRESETS
from neurocuda.discretization.plausibility import doubts, likely_discretization

# name of the export, the words of its warning under the default, the discretization that it requests
DOUBTED: dict[str, tuple[str, Discretization]] = {
    "Norse LIFCell": (
        "node '1': tau_syn = 5e-06 s is shorter than dt = 0.0001 s|Norse's exporter multiplies time constants by its dt"
        "|request Discretization.norse(dt=1e-06)",
        Discretization.norse(dt=1e-6),
    ),
    "Norse LIFBoxCell": ("request Discretization.norse(dt=1e-06)", Discretization.norse(dt=1e-6)),
    "Norse IAFCell": ("IF '1': one output spike|if_gain='r' (Discretization.norse())", Discretization.norse()),
    "sinabs IAF": ("IF '1': one output spike|if_gain='r' (Discretization.sinabs())", Discretization.sinabs()),
    "sinabs LIF": (
        "time constants of 20 s|probably count time steps, as sinabs writes them: request Discretization.sinabs()",
        Discretization.sinabs(),
    ),
    "Spyx LIF": ("time constants of 10 s|as spyx writes them: request Discretization.spyx()", Discretization.spyx()),
    "Spyx CuBaLIF": ("time constants of 5 to 10 s|request Discretization.spyx()", Discretization.spyx()),
}


@pytest.mark.parametrize("name", DOUBTED)
def test_an_export_in_other_units_is_warned_of_once(name: str) -> None:
    words, expected = DOUBTED[name]
    found = read(EXPORTS[name][0])
    (line,) = doubts(found, Discretization())
    assert all(word in line for word in words.split("|")), line
    assert likely_discretization(found) == expected
    assert doubts(found, expected) == []


@pytest.mark.parametrize("name", EXPORTS)
def test_auto_is_the_preset_of_the_exporter_without_a_doubt(name: str) -> None:
    raw, exporter, dt = EXPORTS[name]
    found = read(raw)
    d = likely_discretization(found)
    assert doubts(found, d) == []
    assert d == replace(PRESETS[exporter], dt=d.dt)
    assert dt in (None, d.dt)


UNITS: dict[str, tuple[Raw, Discretization, str, float | None]] = {
    # graph, discretization, words of the warning, dt that it requests
    "LIF in steps": (
        network(written("LIF", True, tau=20, r=1.3)),
        Discretization(),
        "time constants of 20 s|request dt=1.0",
        1.0,
    ),
    "CubaLIF in steps": (
        network(written("CubaLIF", True, tau_mem=20, tau_syn=10, r=1.3, w_in=1)),
        Discretization(dt=1e-3),
        "time constants of 10 to 20 s|sinabs, Spyx and SpiNNaker2|request dt=1.0",
        1.0,
    ),
    "Delay in steps": (chain({"n": node("Delay", delay=3.0)}), Discretization(), "delays of 3 s|request dt=1.0", 1.0),
    "LIF and Delay in steps": (
        chain({"n": {**node("LIF"), "tau": 20.0, "r": 1.3}, "late": node("Delay", delay=[1.0, 2.0, 5.0])}),
        Discretization(),
        "time constants of 20 s and delays of 1 to 5 s",
        1.0,
    ),
    "a delay that becomes 0": (
        chain({"n": node("Delay", delay=4e-4)}),
        Discretization(dt=1e-3),
        "node 'n': a delay of 0.0004 s is 0.4 steps of dt = 0.001 s and is rounded to 0|request dt=0.0002",
        2e-4,
    ),
    "a delay that becomes 2 ms": (
        chain({"n": node("Delay", delay=np.float32(1.5e-3))}),
        Discretization(dt=1e-3),
        "is 1.5 steps of dt = 0.001 s and is rounded to 2|request dt=0.0005",
        5e-4,
    ),
    "delays of several nodes": (
        chain({"n": node("Delay", delay=[4e-4, 1e-3, 0.0]), "m": node("Delay", delay=1.5e-3)}),
        Discretization(dt=1e-3),
        "node 'm': a delay|(1 more such nodes); request dt=0.0001",
        1e-4,
    ),
    "a delay of no grid": (
        chain({"n": node("Delay", delay=[1.2345678e-3, 3.1415926e-4, 0.0])}),
        Discretization(dt=1e-3),
        "is 0.314159 steps",
        None,
    ),
    "tau shorter than dt": (
        network(written("LIF", True, tau=3e-4, r=1.3)),
        Discretization(dt=1e-3),
        "node '1': tau = 0.0003 s is shorter than dt = 0.001 s; with integrator='euler' its decay|request dt=0.0001",
        1e-4,
    ),
    "seconds run in steps": (
        network(written("LIF", True, tau=0.02, r=1.3)),
        Discretization.sinabs(),
        "shorter than dt = 1 s; it decays fully in each step; request dt=0.01",
        0.01,
    ),
    "snnTorch's file at another dt": (
        EXPORTS["snnTorch Synaptic"][0],
        Discretization(dt=1e-3),
        "request Discretization.snntorch(dt=0.0001)",
        1e-4,
    ),
}


@pytest.mark.parametrize("case", UNITS)
def test_units_are_noticed(case: str) -> None:
    raw, d, words, dt = UNITS[case]
    found = read(raw)
    (line,) = doubts(found, d)
    assert all(word in line for word in words.split("|")), line
    if dt is None:
        assert "request" not in line
    else:
        assert doubts(found, replace(d, dt=dt)) == []


PLAUSIBLE: dict[str, tuple[Raw, Discretization]] = {
    "a neuron that fires by itself": (
        {
            **chain({"n": node("LIF")}),
            "nodes": chain({"n": node("LIF")})["nodes"]
            | {"pace": node("LIF", tau=np.full(3, 1e-4), v_leak=np.full(3, 2.0))},
            "edges": [("in", "n"), ("n", "out"), ("pace", "out")],
        },
        Discretization(),
    ),
    "a slow read-out": (chain({"n": node("LI", tau=2.0)}), Discretization()),
    "slow and fast neurons": (
        chain({"n": node("LIF", tau=np.array([0.01, 0.02, 3.0]), r=1.3)}),
        Discretization(),
    ),
    "delays on the grid": (
        chain({"n": node("Delay", delay=np.float32([1e-3, 7e-3, 0.123]))}),
        Discretization(dt=1e-3),
    ),
    "a delay of seconds beside seconds": (
        chain({"n": node("LIF", tau=0.01, r=1.3), "late": node("Delay", delay=2.0)}),
        Discretization(),
    ),
    "steps run in steps": (network(written("LIF", True, tau=20, r=1.3)), Discretization(dt=1.0)),
    "a threshold that is never reached": (
        chain({"n": node("LIF", v_threshold=np.inf), "m": node("IF", r=1e4, v_threshold=np.inf)}),
        Discretization(),
    ),
    "inhibition alone": (
        chain({"a": node("LIF"), "fc": node("Linear", weight=np.full((4, 3), -1.0)), "n": node("LIF")}),
        Discretization(),
    ),
    "a weak population": (
        chain({"a": node("LIF"), "fc": node("Linear", weight=np.full((4, 3), 0.1)), "n": node("LIF")}),
        Discretization(),
    ),
    "no source": (
        {
            "type": "NIRGraph",
            "nodes": {**chain({"n": node("LIF")})["nodes"], "lone": node("LIF", tau=np.full(3, 0.01))},
            "edges": [("in", "n"), ("n", "out"), ("lone", "out")],
        },
        Discretization(),
    ),
}


@pytest.mark.parametrize("case", PLAUSIBLE)
def test_plausible_graphs_are_not_warned_of(case: str) -> None:
    raw, d = PLAUSIBLE[case]
    assert doubts(read(raw), d) == []


@needs_paper
@pytest.mark.parametrize(
    ("name", "d"),
    [
        ("cnn/cnn_sinabs.nir", Discretization.sinabs()),
        ("cnn/cnn_sinabs.nir", Discretization(dt=1.0)),
        ("lif/lif_norse.nir", Discretization.norse()),
        ("lif/lif_norse.nir", Discretization.norse(dt=1e-4)),
        ("lif/lif_rockpool.nir", Discretization.rockpool(dt=1e-4)),
        *(
            ("rnn/braille_noDelay_bias_zero" + end, d)
            for end in (".nir", "_nested.nir")
            for d in (Discretization(), Discretization.snntorch())
        ),
    ],
)
def test_published_files_are_plausible_as_they_are_meant(name: str, d: Discretization) -> None:
    found = neurocuda.read(FOLDER / name)
    assert doubts(found, d) == []
    assert doubts(found, likely_discretization(found)) == []


@seed(22)
@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_random_graphs_are_warned_of_what_is_in_them(case: Case) -> None:
    """They are plausible, but for time constants shorter than a step, delays between two, and thresholds below zero."""
    found = read(case.raw)
    d = Discretization(**case.discretization)
    nodes = found.nodes.values()
    short = d.integrator == "euler" and any(
        node.array(name).min() < d.dt * (1 - 1e-6)
        for node in nodes
        for name in ("tau", "tau_mem", "tau_syn")
        if name in node.parameters
    )
    steps = [node.array("delay").astype(np.float64) / d.dt for node in nodes if node.primitive.is_delay]
    between = any((np.abs(step - np.rint(step)) > 0.01 * step).any() for step in steps)
    lines = doubts(found, d)
    assert ["is shorter than" in line for line in lines].count(True) == short, lines
    assert ["a delay of" in line for line in lines].count(True) == between, lines
    others = [line for line in lines if "is shorter than" not in line and "a delay of" not in line]
    below = any("v_threshold" in node.parameters and node.array("v_threshold").min() <= 0 for node in nodes)
    assert not others or (below and "fires at every step" in others[0] and len(others) == 1), lines


FIRING: dict[str, tuple[Raw, Discretization, str]] = {
    "a threshold in other units": (
        chain(
            {"a": node("LIF"), "fc": node("Linear", weight=np.full((4, 3), 0.01)), "n": node("LIF", v_threshold=15.0)}
        ),
        Discretization(),
        "'n': no neuron can fire within 10000 steps",
    ),
    "CubaLIF of a small w_in": (
        chain({"a": node("LIF"), "n": node("CubaLIF", w_in=1e-6)}),
        Discretization(),
        "'n': no neuron can fire",
    ),
    "no charge": (chain({"n": node("LIF", tau=np.inf)}), Discretization(), "'n': no neuron can fire"),
    "a leak above the threshold": (
        chain({"a": node("LIF"), "n": node("LIF", tau=1e-4, v_leak=3.0)}),
        Discretization(),
        "'n': every neuron fires at every step",
    ),
    "a bias above the threshold": (
        chain({"a": node("LIF"), "fc": node("Affine", bias=np.full(4, 9.0)), "n": node("IF", r=1e4)}),
        Discretization(),
        "'n': every neuron fires at every step",
    ),
    "a threshold below zero": (
        chain({"a": node("LIF"), "n": node("LIF", v_threshold=-1.0)}),
        Discretization(),
        "'n': every",
    ),
    "IF of SpikingJelly that counts": (
        EXPORTS["SpikingJelly IFNode"][0],
        Discretization(if_gain="r"),
        "IF '_1': one input spike|times the threshold|if_gain='r*dt' with dt=0.0001, as SpikingJelly writes IF",
    ),
    "LIF of a large r": (
        chain({"n": node("LIF", r=1e8)}),
        Discretization(),
        "LIF 'n': one input spike|check the units of r, w_in and the weights",
    ),
}


@pytest.mark.parametrize("case", FIRING)
def test_neurons_that_cannot_fire_or_must_are_noticed(case: str) -> None:
    raw, d, words = FIRING[case]
    lines = doubts(read(raw), d)
    assert len(lines) == 1, lines
    assert all(word in lines[0] for word in words.split("|")), lines


@pytest.mark.parametrize("case", [name for name in FIRING if "SpikingJelly" not in name])
def test_what_is_noticed_is_so(case: str) -> None:
    """Full drive for a thousand steps: no spike where none can fire, and one in each step where all must."""
    raw, d, words = FIRING[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = neurocuda.load(read(raw), d)
    for amplitude in (0.0, 1.0, 255.0):
        result = net.run(torch.full((1000, 1, 3), amplitude), record={"n": "spikes"})
        spikes = result.recordings["n"]["spikes"]
        if "no neuron can fire" in words:
            assert not spikes.any()
        elif "every" in words:
            assert spikes.all()


SILENT_UNITS: dict[str, tuple[Raw, Any]] = {
    "IF": (network(written("IF", True, r=1), "Affine"), 1.0),
    "LIF": (network(written("LIF", True, tau=20, r=1), "Affine"), 1.0),
    "CubaLIF": (network(written("CubaLIF", True, tau_mem=20, tau_syn=10, r=1, w_in=1), "Affine"), 1.0),
}


@pytest.mark.parametrize("kind", SILENT_UNITS)
def test_auto_fires_where_the_default_is_silent(kind: str) -> None:
    raw, _ = SILENT_UNITS[kind]
    raw["nodes"]["0"] = {**raw["nodes"]["0"], "weight": np.full((4, 3), 1.0), "bias": np.zeros(4)}
    x = (torch.rand(200, 2, 3, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    found = read(raw)
    with pytest.warns(NeuroCUDAWarning) as warned:
        silent = neurocuda.load(found)
    assert len(warned) == 1
    assert not silent(x)[0].any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = neurocuda.load(found, "auto")
    assert net.discretization == likely_discretization(found)
    assert 0.01 < net(x)[0].gt(0).float().mean() < 0.99  # sinabs counts up to many spikes in a step


def test_auto_reads_the_dt_of_the_metadata() -> None:
    found = read({**chain({"n": node("LIF")}), "metadata": {"dt": 5e-4}})
    assert likely_discretization(found) == Discretization(dt=5e-4)
    (line,) = doubts(found, Discretization())
    assert "was written for dt = 0.0005 s" in line


def test_another_word_than_auto_is_refused() -> None:
    with pytest.raises(ArgumentError, match="discretization: expected a Discretization, 'auto' or None, found 'norse'"):
        neurocuda.load(read(chain({"n": node("LIF")})), "norse")  # type: ignore[arg-type]


@pytest.mark.parametrize("dt", [np.inf, np.nan, -1.0, 0.0])
def test_a_dt_in_the_metadata_that_is_no_step_is_left_alone(dt: float) -> None:
    graph = replace(read(SILENT_UNITS["LIF"][0]), metadata={"dt": dt})
    assert likely_discretization(graph) == likely_discretization(replace(graph, metadata={}))
    assert not any("was written for" in line for line in doubts(graph, Discretization()))
