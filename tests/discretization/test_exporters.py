"""The likely exporter of a graph: published files, and neurons as each exporter writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paper import FOLDER, needs_paper
from raw_nodes import Raw, chain, graph, node, terminal

import neurocuda
from neurocuda.discretization.exporters import exporter_dt, likely_exporter
from neurocuda.graph import Graph, build

PUBLISHED = {
    "cnn/cnn_sinabs.nir": ("sinabs", None),
    "lif/lif_norse.nir": ("norse", None),
    "lif/lif_rockpool.nir": ("rockpool", 1e-4),
    "rnn/braille_noDelay_bias_zero.nir": ("snntorch", 1e-4),
    "rnn/braille_noDelay_bias_zero_nested.nir": ("snntorch", 1e-4),
}


@needs_paper
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name: str) -> None:
    found = neurocuda.read(FOLDER / name)
    exporter = likely_exporter(found)
    assert (exporter, exporter_dt(found, exporter)) == PUBLISHED[name]


def single(*values: float) -> np.ndarray:
    return np.float32(values if len(values) > 1 else values[0])


def written(kind: str, exact: bool = False, **values: float) -> Raw:
    """A neuron of four elements, its values in float32 as torch has them, or in float64."""
    fields = {"v_threshold": 1.0, **({} if kind == "IF" else {"v_leak": 0.0})}
    if not kind.endswith("F"):
        del fields["v_threshold"]
    numbers = {**fields, **values}
    dtype = np.float64 if exact else np.float32
    return {"type": kind, **{name: np.full(4, value, dtype) for name, value in numbers.items()}}


def network(
    neuron: Raw, weights: str = "Affine", batch: bool = False, names: tuple[str, ...] = ("0", "1"), **ends: Any
) -> Raw:
    """weights -> neuron, from an Input of 3 to an Output of 4."""
    first, second, source = *names, ends.get("source", "input")
    shapes = ((1, 3), (1, 4)) if batch else ((3,), (4,))
    nodes = {
        source: terminal("Input", shapes[0]),
        first: node(weights),
        second: neuron,
        "output": terminal("Output", shapes[1]),
    }
    return graph(nodes, [(source, first), (first, second), (second, "output")])


BETA, ALPHA, DT = 0.9, 0.8, 1e-4
TAU, TAU_SYN = DT / (1 - BETA), DT / (1 - ALPHA)
FX: dict[str, Any] = {"names": ("_0", "_1"), "source": "input_1"}

# As the exporters write their own networks: snnTorch 1.0.0, Norse 1.1.0, sinabs 3.1.3, SpikingJelly 2.0.0, Rockpool
# 3.1.0, Spyx 1.0.0. graph, exporter, the dt with which r was computed
EXPORTS: dict[str, tuple[Raw, str, float | None]] = {
    "snnTorch Leaky": (network(written("LIF", tau=TAU, r=TAU / DT)), "snntorch", DT),
    "snnTorch Synaptic": (
        network(written("CubaLIF", tau_mem=TAU, tau_syn=TAU_SYN, r=TAU / DT, w_in=TAU_SYN / DT), "Linear"),
        "snntorch",
        DT,
    ),
    "Norse LIFCell": (
        network(written("CubaLIF", tau_mem=1e-5, tau_syn=5e-6, r=1), batch=True),
        "norse",
        None,
    ),
    "Norse LIFBoxCell": (network(written("LIF", tau=1e-5, r=1), batch=True), "norse", None),
    "Norse LIBoxCell": (network(written("LI", tau=1e-5, r=1), batch=True), "norse", None),
    "Norse IAFCell": (network(written("IF", r=1), batch=True), "norse", None),
    "sinabs IAF": (network(written("IF", r=1)), "sinabs", None),
    "sinabs LIF": (network(written("LIF", tau=20, r=1)), "sinabs", None),
    "sinabs ExpLeak": (network(written("LI", tau=20, r=1)), "sinabs", None),
    "SpikingJelly IFNode": (network(written("IF", True, r=1 / DT), **FX), "spikingjelly", DT),
    "SpikingJelly LIFNode": (network(written("LIF", True, tau=2e-4, r=1), **FX), "spikingjelly", None),
    "SpikingJelly LIFNode, no decay of the input": (
        network(written("LIF", True, tau=2e-4, r=2), **FX),
        "spikingjelly",
        DT,
    ),
    "SpikingJelly CUBALIFNode": (
        network(written("CubaLIF", True, tau_mem=2e-4, tau_syn=2e-4, r=2, w_in=2), **FX),
        "spikingjelly",
        DT,
    ),
    "Rockpool LIFTorch": (
        network(
            written("CubaLIF", tau_mem=0.02, tau_syn=0.02, r=20 * np.exp(-1 / 20)),
            "Linear",
            names=("0_LinearTorch", "1_LIFTorch"),
        ),
        "rockpool",
        1e-3,
    ),
    "Rockpool, other names": (network(written("LIF", tau=0.02, r=20 * np.exp(-1 / 20)), "Linear"), "rockpool", 1e-3),
    "Spyx LIF": (network(written("LIF", True, tau=10, r=0.9), names=("layer_0", "layer_1")), "spyx", None),
    "Spyx CuBaLIF": (
        network(written("CubaLIF", True, tau_mem=10, tau_syn=5, r=0.9), names=("layer_0", "layer_1")),
        "spyx",
        None,
    ),
    "Spyx LIF, other names": (network(written("LIF", True, tau=10, r=0.9)), "spyx", None),
}


def read(raw: Raw) -> Graph:
    found, problems = build(raw, "graph", None)
    assert found is not None, problems
    return found


@pytest.mark.parametrize("name", EXPORTS)
def test_networks_as_their_tools_export_them(name: str) -> None:
    raw, exporter, dt = EXPORTS[name]
    found = read(raw)
    assert likely_exporter(found) == exporter
    assert exporter_dt(found, exporter) == dt


def test_a_recurrent_layer_of_snntorch_is_known_by_its_names() -> None:
    raw = chain({"rlif.lif": written("LIF", tau=3e-4, r=1.5), "after": node("Linear", weight=np.ones((4, 4)))}, (4,))
    raw["nodes"]["rlif.w_rec"] = node("Linear", weight=np.ones((4, 4)))
    raw["edges"] += [("rlif.lif", "rlif.w_rec"), ("rlif.w_rec", "rlif.lif")]
    assert likely_exporter(read(raw)) == "snntorch"


@pytest.mark.parametrize("kind", ["IF", "LIF", "CubaLIF", "LI", "I", "CubaLI"])
def test_a_neuron_of_nobody_names_no_exporter(kind: str) -> None:
    times = {"tau": 0.0123} if kind.startswith("L") else {"tau_mem": 0.0123, "tau_syn": 0.0045}
    values = {"r": 1.7, **({} if kind in ("I", "IF") else times)}
    raw = network(written(kind, True, **values) if kind != "I" else {"type": "I", "r": np.full(4, 1.7)})
    found = read(raw)
    assert likely_exporter(found) is None
    assert exporter_dt(found, None) is None
    assert likely_exporter(read(chain({"fc": node("Affine")}))) is None


def test_a_converted_network_is_of_neurocuda(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    snn = neurocuda.convert(model, torch.rand(16, 4), report=False)
    neurocuda.to_nir(snn, tmp_path / "model.nir")
    assert likely_exporter(neurocuda.read(tmp_path / "model.nir")) == "neurocuda"
