"""`convert(..., weight_bits=8)`: certified whole, hardly less accurate, and the file runs as the network does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digit_models import MODELS, digits, trained
from oracle import read_raw, run
from rectified_graphs import values
from torch import nn

import neurocuda
from neurocuda import SNN, ArgumentError, NeuroCUDAWarning
from neurocuda.compiler.exactness import certify
from neurocuda.compiler.grids import InputGrid
from neurocuda.convert.relu_to_spiking import as_rectifiers

FAST: dict[str, Any] = {"percentile": 99.5, "timesteps": 16, "report": False}

pytestmark = pytest.mark.filterwarnings("ignore:channels that were always zero")


def converted(name: str, **how: Any) -> SNN:
    return neurocuda.convert(trained(name), digits()[0], **FAST, **how)


def accuracy(snn: SNN) -> float:
    _, _, x, y = digits()
    with torch.no_grad():
        return float((snn(x).argmax(1) == y).double().mean())


@pytest.mark.parametrize("name", MODELS)
def test_certified_whole_and_hardly_less_accurate(name: str) -> None:
    snn = converted(name, weight_bits=8)
    assert snn.input_grid == InputGrid(0.125, -1.0, 1.0)
    assert snn.quantized is not None
    assert snn.quantized.certificate.exact
    certificate = certify(snn.graph, snn.network.discretization, input_grid=snn.input_grid)
    assert certificate.exact
    assert len(certificate.proofs) == len(
        [n for n in snn.graph.nodes.values() if "weight" in n.parameters or "kernel_size" in n.parameters]
    )
    assert len([s for s in snn.network.schedule.stages if s.soft_reset]) == len(snn.thresholds)
    assert accuracy(snn) > accuracy(converted(name)) - 0.011  # of 397 images, four


@pytest.mark.parametrize("name", MODELS)
def test_a_file_runs_as_the_network_and_the_oracle_do(name: str, tmp_path: Path) -> None:
    snn = converted(name, weight_bits=8)
    noise = 0.05 * torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x, steps = digits()[2][:3] + noise, 12
    neurocuda.to_nir(snn, tmp_path / "a.nir")
    told = neurocuda.read(tmp_path / "a.nir").metadata["quantized"]
    assert told["bits"] == 8
    step, low, high = told["inputs"]["input"]
    assert (step, low, high) == (0.125, -1, 1)
    rounded = (x / step).round() * step
    assert not torch.equal(rounded, x)
    with torch.no_grad():
        mine = snn.steps(x, steps)
        theirs, _ = neurocuda.load(tmp_path / "a.nir")(rounded.expand(steps, *x.shape))
    assert torch.equal(mine, theirs)
    expected = run(read_raw(tmp_path / "a.nir"), {"input": np.broadcast_to(rounded.numpy(), (steps, *x.shape))}, {})
    assert np.array_equal(mine.numpy(), expected.outputs["output"])


def means(snn: SNN, x: np.ndarray) -> dict[str, np.ndarray]:
    """What each rectifier takes on average, by channel, in units of its threshold; of the output the scores."""
    graph = as_rectifiers(snn.graph)
    found = values(graph, x)
    result = {}
    for name, node in graph.nodes.items():
        if node.type in ("ReLU", "Output"):
            total = sum(found[a] for a, b in graph.edges if b == name)
            result[name] = np.moveaxis(total, 1, 0).reshape(total.shape[1], -1).mean(1)
    return result


def test_channels_keep_their_means_whatever_rounding_does_to_weights() -> None:
    plain, x = converted("residual", samples=60), digits()[0][:60]
    grid = InputGrid(0.125, -1.0, 1.0)
    how: dict[str, Any] = {"timesteps": 8, "weight_bits": 3, "input_grid": grid}
    moved, left = (SNN(plain.rectified, plain.thresholds, **how, samples=samples) for samples in (x, None))
    wanted, kept, shifted = (means(snn, x.numpy()) for snn in (plain, moved, left))
    for name in wanted:
        # Not wholly: biases are on a grid, and those before have been rounded.
        error, before = (np.abs(means_of[name] - wanted[name]).max() for means_of in (kept, shifted))
        assert error < before / 8, name
    assert accuracy(moved) > accuracy(left)
    for name, node in left.graph.nodes.items():
        if "weight" in node.parameters:
            assert np.array_equal(node.array("weight"), moved.graph.nodes[name].array("weight"))


def test_samples_are_rounded_in_every_type_and_gradients_pass() -> None:
    snn = converted("residual", weight_bits=8)
    x = torch.tensor([0.05, 0.0625, -0.0625, 0.07, -0.95, 0.1875, 3.0]).repeat(64)[:64].reshape(1, 1, 8, 8)
    expected = torch.tensor([0.0, 0.0, 0.0, 0.125, -1.0, 0.25, 3.0]).repeat(64)[:64].reshape(1, 1, 8, 8)
    for kind in (torch.float32, torch.float64):
        assert torch.equal(snn.signal(x.to(kind), 2)[1], expected)
    half = x.half()
    assert torch.equal(snn.signal(half, 1)[0], (half.float() * 8).round() / 8)
    learned = x.clone().requires_grad_()
    rounded = snn.signal(learned, 1)
    assert torch.equal(rounded.detach()[0], expected)
    rounded.sum().backward()
    assert learned.grad is not None
    assert torch.equal(learned.grad, torch.ones_like(x))


def test_samples_decide_the_grid_of_the_input() -> None:
    grids = {}
    for name, change in (("bytes", lambda x: ((x + 1) * 127).round()), ("other numbers", lambda x: x * 0.7123)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
        snn = neurocuda.convert(model, change(digits()[0][:50]), weight_bits=8, **FAST)
        grids[name] = snn.input_grid
        assert snn.quantized is not None
        assert snn.quantized.certificate.exact
    assert grids == {
        "bytes": InputGrid(1.0, 0.0, 255.0),
        "other numbers": InputGrid(2.0**-8, -(1 - 2.0**-8), 1 - 2.0**-8),
    }


def test_the_report_and_the_choice_are_those_of_the_quantised_network() -> None:
    x, y, _, _ = digits()
    snn = neurocuda.convert(trained("residual"), (x, y), samples=60, percentile=(99.0, 99.5), weight_bits=3)
    plain = neurocuda.convert(trained("residual"), (x, y), samples=60, percentile=(99.0, 99.5))
    assert snn.report is not None
    assert plain.report is not None
    assert snn.report.at(32).error > plain.report.at(32).error
    with torch.no_grad():
        agreement = (snn(x[:60]).argmax(1) == trained("residual")(x[:60]).argmax(1)).double().mean()
    assert snn.report.at(32).agreement == float(agreement)


class Wide(nn.Module):
    """What it sums three times without a neuron between is more than 24 bits hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(64, 600), nn.Linear(600, 600), nn.Linear(600, 600)
        self.last = nn.Linear(600, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.third(self.second(self.first(x.flatten(1))))))


def test_what_cannot_be_exact_is_a_warning() -> None:
    with pytest.warns(NeuroCUDAWarning, match=r"weight_bits: not all sums are exact, first node 'third' \(Affine\)"):
        neurocuda.convert(Wide(), digits()[0][:20], weight_bits=8, **FAST)


@pytest.mark.parametrize("bits", [1, 9, 8.0, True, "8"])
def test_numbers_of_bits_that_are_refused(bits: Any) -> None:
    with pytest.raises(ArgumentError, match=r"weight_bits: expected an integer from 2 to 8, found"):
        converted("pooled", weight_bits=bits)
