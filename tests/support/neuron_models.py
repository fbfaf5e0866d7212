"""Models of neuron modules, written by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import neurocuda


def hand_written(seed: int = 0) -> nn.Module:
    """A residual network of neuron modules."""
    torch.manual_seed(seed)
    how: dict[str, Any] = {"discretization": neurocuda.Discretization(dt=1.0, reset="subtract")}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            per_step = neurocuda.nn.PerStep
            self.stem = per_step(nn.Conv2d(1, 8, 3, padding=1))
            self.lif1 = neurocuda.nn.LIF(3.0, r=6.0, learn="tau", **how)
            self.conv = per_step(nn.Conv2d(8, 8, 3, padding=1))
            self.lif2 = neurocuda.nn.LIF(torch.linspace(2, 5, 8), r=3.0, learn=("tau", "v_threshold"), **how)
            self.pool = per_step(nn.Sequential(nn.AvgPool2d(2), nn.Flatten()))
            self.fc = nn.Linear(128, 10)
            self.li = neurocuda.nn.LI(4.0, learn="tau", **how)

        def forward(self, x: Tensor) -> Tensor:
            spikes = self.lif1(self.stem(x))
            y: Tensor = self.li(self.fc(self.pool(self.lif2(self.conv(spikes) + spikes))))
            return y

    return Net()
