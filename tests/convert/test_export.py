"""`to_nir`: what is written is what ran, bit for bit, in standard NIR, the same bytes each time."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from digit_models import MODELS, digits, trained
from oracle import read_raw, run
from torch import nn
from torchvision_models import model as torchvision_model

import neurocuda
from neurocuda import SNN, ArgumentError, Discretization, NeuroCUDAWarning
from neurocuda.convert.relu_to_spiking import spiking

FAST: dict[str, Any] = {"percentile": 99.5, "timesteps": 8, "samples": 100, "report": False}
GRID = 2.0**-8

pytestmark = pytest.mark.filterwarnings("ignore:channels that were always zero")


def converted(name: str) -> SNN:
    return neurocuda.convert(trained(name), digits()[0], **FAST)


def on_grid(snn: SNN) -> SNN:
    """The network with all weights multiples of 2^-8, so that its sums are exact in any order."""
    with torch.no_grad():
        for parameter in snn.parameters():
            parameter.copy_((parameter / GRID).round() * GRID)
    return snn


def assert_twin(snn: SNN, path: Path, x: torch.Tensor, steps: int, *, oracle: bool) -> None:
    """A file of the network runs as the network does, at every step; if asked so does the oracle's reading of it."""
    neurocuda.to_nir(snn, path)
    net = neurocuda.load(path)
    with torch.no_grad():
        mine = snn.steps(x, steps)
        theirs, _ = net(x.expand(steps, *x.shape))
    assert torch.equal(mine, theirs)
    fired = [name for name, node in net.graph.nodes.items() if node.type == "Threshold"]
    with torch.no_grad():
        spikes = net.run(x.expand(steps, *x.shape), record=dict.fromkeys(fired, "spikes")).recordings
    assert all(bool(spikes[name]["spikes"].any()) for name in fired)
    if oracle:
        found = run(read_raw(path), {"input": np.broadcast_to(x.numpy(), (steps, *x.shape))}, {})
        assert torch.equal(theirs, torch.from_numpy(found.outputs["output"]))
        for name in fired:
            assert np.array_equal(found.node_outputs[name], spikes[name]["spikes"].numpy()), name


@pytest.mark.parametrize("name", MODELS)
def test_a_file_runs_as_the_network_does(name: str, tmp_path: Path) -> None:
    assert_twin(converted(name), tmp_path / "a.nir", digits()[2][:5], 20, oracle=False)
    x = (digits()[2][:3] * 8).round() / 8
    assert_twin(on_grid(converted(name)), tmp_path / "b.nir", x, 12, oracle=True)


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("resnet18", True),
        pytest.param("resnet34", True, marks=pytest.mark.full),
        pytest.param("resnet50", True, marks=pytest.mark.full),
        ("resnet50", False),
    ],
)
@pytest.mark.slow
def test_torchvision_resnets(name: str, oracle: bool, tmp_path: Path) -> None:
    model = torchvision_model(name, num_classes=10)
    x = torch.randint(-8, 9, (12, 3, 32, 32), generator=torch.Generator().manual_seed(4)).float() / 4
    snn = neurocuda.convert(model, x, percentile=99.0, timesteps=2, readout_delay=2, report=False)
    assert_twin(on_grid(snn), tmp_path / "resnet.nir", x[:1], 3, oracle=oracle)
    neurocuda.to_nir(snn, tmp_path / "dense.nir", dense_groups=True)
    theirs = nir.read(str(tmp_path / "dense.nir"))  # with its check of types
    assert len(theirs.nodes) == len(snn.graph.nodes)
    dense, _ = neurocuda.load(tmp_path / "dense.nir")(x[:1].expand(3, -1, -1, -1, -1))
    assert torch.equal(dense, snn.steps(x[:1], 3))


def test_the_nir_package_refuses_grouped_convolutions_and_takes_dense_ones(tmp_path: Path) -> None:
    snn = converted("pooled")
    groups = [node.parameters["groups"] for node in snn.graph.nodes.values() if node.type == "Conv2d"]
    assert max(groups) > 1
    neurocuda.to_nir(snn, tmp_path / "grouped.nir")
    with pytest.raises(ValueError, match=r"shape|type|in_channels|mismatch"):
        nir.read(str(tmp_path / "grouped.nir"))
    graph = neurocuda.to_nir(snn, tmp_path / "dense.nir", dense_groups=True)
    nir.read(str(tmp_path / "dense.nir"))
    assert all(node.parameters.get("groups", 1) == 1 for node in graph.nodes.values())
    x = digits()[2][:4]
    dense, _ = neurocuda.load(graph)(x.expand(12, *x.shape))
    assert torch.allclose(dense, snn.steps(x, 12), atol=1e-4)
    snn = on_grid(snn)
    graph = neurocuda.to_nir(snn, tmp_path / "dense.nir", dense_groups=True)
    x = x.round()
    assert torch.equal(neurocuda.load(graph)(x.expand(12, *x.shape))[0], snn.steps(x, 12))


@pytest.mark.parametrize("name", MODELS)
def test_the_same_network_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    for path in ("a.nir", "b.nir"):
        neurocuda.to_nir(converted(name), tmp_path / path)
    assert (tmp_path / "a.nir").read_bytes() == (tmp_path / "b.nir").read_bytes()


def test_nodes_are_standard_and_state_their_shapes(tmp_path: Path) -> None:
    neurocuda.to_nir(converted("residual"), tmp_path / "a.nir")
    theirs = nir.read(str(tmp_path / "a.nir"))
    ours = neurocuda.read(tmp_path / "a.nir")
    assert not ours.warnings
    assert {type(node).__name__ for node in theirs.nodes.values()} == {
        *("Input", "Output", "I", "Threshold", "Scale", "Conv2d", "AvgPool2d", "Flatten", "Affine")
    }
    for name, node in theirs.nodes.items():
        assert tuple(node.input_type["input"]) == ours.nodes[name].input_shape, name
        assert tuple(node.output_type["output"]) == ours.nodes[name].output_shape, name
        if isinstance(node, nir.I):
            assert node.r.shape == ours.nodes[name].input_shape
            assert np.float32(node.r.flat[0] * 1e-4) == 1


def test_metadata_tell_where_it_came_from_and_change_nothing(tmp_path: Path) -> None:
    snn = neurocuda.convert(trained("pooled"), digits()[0], **FAST, dt=1e-3)
    neurocuda.to_nir(snn, tmp_path / "a.nir")
    found = neurocuda.read(tmp_path / "a.nir").metadata["neurocuda"]
    assert found["format"] == 1
    assert (found["discretization"]["dt"], found["discretization"]["gain"]) == (1e-3, "r*g")
    assert (found["timesteps"], found["readout_delay"], found["reset"]) == (8, 8, "loop")
    assert found["versions"]["neurocuda"] == neurocuda.__version__
    x = digits()[2][:2].expand(10, -1, -1, -1, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = neurocuda.load(tmp_path / "a.nir")
    assert torch.equal(net(x)[0], snn.steps(digits()[2][:2], 10))
    with pytest.warns(NeuroCUDAWarning, match=r"the file states dt=0.001, but is run with dt=0.0001"):
        neurocuda.load(tmp_path / "a.nir", dt=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_neurons_that_reset_by_subtraction(name: str, tmp_path: Path) -> None:
    snn = converted(name)
    with pytest.warns(NeuroCUDAWarning, match=r"reset='if': \d+ populations.*subtract"):
        graph = neurocuda.to_nir(snn, tmp_path / "if.nir", reset="if")
    assert {node.type for node in graph.nodes.values()} & {"I", "Threshold"} == set()
    neurons = {node.name for node in neurocuda.read(tmp_path / "if.nir").nodes.values() if node.type == "IF"}
    assert neurons == set(snn.thresholds)
    # A neuron that starts at zero and loses its threshold at the step of the spike: the same spikes, on a grid.
    x = digits()[2][:4].round()
    late = SNN(snn.rectified, snn.thresholds, timesteps=8, initial=0.0)
    with pytest.warns(NeuroCUDAWarning):
        graph = neurocuda.to_nir(on_grid(late), tmp_path / "late.nir", reset="if")
    found, _ = neurocuda.load(graph, Discretization(reset="subtract"))(x.expand(20, *x.shape))
    assert torch.equal(found, late.steps(x, 20))


def test_weights_are_written_as_they_are_now(tmp_path: Path) -> None:
    snn = converted("residual")
    x = digits()[2][:3]
    before = snn.steps(x, 6)
    optimizer = torch.optim.SGD(snn.parameters(), 0.05)
    snn(x).square().sum().backward()
    optimizer.step()
    assert_twin(snn, tmp_path / "a.nir", x, 6, oracle=False)
    assert not torch.equal(before, snn.steps(x, 6))
    neurocuda.to_nir(snn.network, tmp_path / "b.nir")
    assert torch.equal(neurocuda.load(tmp_path / "b.nir")(x.expand(6, *x.shape))[0], snn.steps(x, 6))


def test_an_executor_keeps_its_discretization(tmp_path: Path) -> None:
    snn = converted("residual")
    graph = spiking(snn.rectified, snn.thresholds, dt=0.5)
    neurocuda.to_nir(neurocuda.Executor(graph, Discretization(dt=0.5, spike_when="reaching")), tmp_path / "a.nir")
    found = neurocuda.read(tmp_path / "a.nir").metadata["neurocuda"]["discretization"]
    assert (found["dt"], found["spike_when"]) == (0.5, "reaching")


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (lambda: "x", {}, r"network: expected an SNN, an Executor or a module, found a str"),
        (lambda: nn.ReLU(), {}, r"example_input: expected a tensor.*found none"),
        (lambda: nn.ReLU(), {"example_input": [1]}, r"example_input: .*found a list"),
        (lambda: trained("residual"), {"example_input": torch.zeros(1, 1, 8, 8)}, r"found a ReLU; neurocuda.convert"),
        (lambda: converted("residual"), {"reset": "soft"}, r"reset: expected one of 'loop', 'if', found 'soft'"),
    ],
)
def test_what_cannot_be_written(network: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        neurocuda.to_nir(network(), tmp_path / "a.nir", **options)
    assert not (tmp_path / "a.nir").exists()
