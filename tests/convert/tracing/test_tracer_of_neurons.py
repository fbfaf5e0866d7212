"""Models of the neurons of `neurocuda.nn`: the graph that the tracer makes runs to the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurocuda import Discretization, Executor
from neurocuda import nn as spiking
from neurocuda.convert.tracing.tracer import trace
from neurocuda.nn import PerStep

DT = 1e-4


def on_grid(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with weights that are multiples of 1/64: their sums are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dtype == torch.float32:
                parameter.copy_(torch.randint(-64, 65, parameter.shape, generator=generator) / 64)
    return model


class Residual(nn.Module):
    """Convolutions per step, neurons over time, a shortcut, a read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = PerStep(nn.Conv2d(2, 4, 3, padding=1, bias=False))
        self.lif1 = spiking.LIF(tau=4 * DT, v_threshold=0.5)
        self.body = PerStep(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Dropout()))
        self.lif2 = spiking.CubaLIF(tau_syn=2 * DT, tau_mem=4 * DT, v_threshold=0.25)
        self.pool = PerStep(nn.AvgPool2d(2))
        self.fc = nn.Linear(4 * 3 * 2, 5)
        self.out = spiking.LI(tau=2 * DT)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif1(self.conv1(x))
        x = x + self.lif2(self.body(x) + x)
        y: Tensor = self.out(self.fc(self.pool(x).flatten(2)))
        return y


class ByHand(nn.Module):
    """Frames by views of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.neuron = spiking.IF()

    def forward(self, x: Tensor) -> Tensor:
        steps, batch = x.shape[:2]
        y = self.conv(x.flatten(0, 1))
        z: Tensor = self.neuron(y.view(steps, batch, 3, y.size(-2), y.size(-1)))
        return z


SUBTRACT = Discretization(reset="subtract", spike_when="reaching")
MODELS: dict[str, tuple[Any, tuple[int, ...], Discretization]] = {
    "a neuron alone": (lambda: spiking.LIF(tau=2 * DT, v_threshold=0.25), (6, 2, 3), Discretization()),
    "every neuron": (
        lambda: nn.Sequential(
            nn.Linear(4, 6),
            spiking.CubaLI(tau_syn=2 * DT, tau_mem=4 * DT),
            spiking.I(),
            spiking.IF(),
            nn.Linear(6, 5),
            spiking.LIF(tau=2 * DT, v_threshold=torch.linspace(0.1, 0.5, 5)),
            spiking.CubaLIF(tau_syn=2 * DT, tau_mem=4 * DT, v_threshold=0.125),
            spiking.LI(tau=4 * DT),
        ),
        (20, 3, 4),
        Discretization(),
    ),
    "residual": (Residual, (12, 2, 2, 6, 4), Discretization()),
    "by hand": (ByHand, (10, 2, 2, 5, 5), Discretization()),
    "another discretization": (
        lambda: nn.Sequential(nn.Linear(4, 6, bias=False), spiking.IF(discretization=SUBTRACT), nn.Linear(6, 2)),
        (15, 2, 4),
        SUBTRACT,
    ),
    "called twice": (lambda: Twice(), (10, 2, 4), Discretization()),
}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(4, 4), spiking.LIF(tau=2 * DT, v_threshold=0.25)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lif(self.fc(self.lif(self.fc(x))))
        return y


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_runs_to_the_same_bits(name: str) -> None:
    make, shape, discretization = MODELS[name]
    model = on_grid(make()).eval()
    x = (torch.rand(*shape, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    graph = trace(model.train(), x)
    with torch.no_grad():
        expected = model.eval()(x)
        found, _ = Executor(graph, discretization)(x)
    assert torch.equal(found, expected)
    assert bool(expected.any())


def test_nodes_are_named_after_modules() -> None:
    graph = trace(Residual(), torch.zeros(3, 1, 2, 6, 4))
    types = {name: node.type for name, node in graph.nodes.items()}
    assert types == {
        "input": "Input",
        "conv1": "Conv2d",
        "lif1": "LIF",
        "body.0": "Conv2d",
        "lif2": "CubaLIF",
        "pool": "AvgPool2d",
        "flatten": "Flatten",
        "fc": "Affine",
        "out": "LI",
        "output": "Output",
    }
    assert sorted(a for a, b in graph.edges if b == "lif2") == ["body.0", "lif1"]
    assert graph.nodes["lif2"].output_shape == (4, 6, 4)
