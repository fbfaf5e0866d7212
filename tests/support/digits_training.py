"""Fine-tuning on scikit-learn's digits, for tests; as a program, one that can be killed at a batch."""

from __future__ import annotations

import os
import random
import signal
import sys
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from neurocuda.convert.calibrate import convert
from neurocuda.convert.snn import SNN
from neurocuda.convert.training.finetune import finetune


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [N, 1, 8, 8] and labels to train with, and those held out."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x, y = torch.from_numpy(bunch.images[order]).float().unsqueeze(1) / 16, torch.from_numpy(bunch.target[order])
    return x[:1437], y[:1437], x[1437:], y[1437:]


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + x
        return torch.relu(y)


@cache
def trained() -> nn.Module:
    """A residual network, trained for some seconds, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Block(8), nn.AvgPool2d(2))
        model = nn.Sequential(*model, nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10))
        x, y, _, _ = digits()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(8):
            for which in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[which]), y[which]).backward()
                optimizer.step()
    return model.eval()


def accuracy(network: nn.Module) -> float:
    _, _, x, y = digits()
    with torch.no_grad():
        return float((network(x).argmax(1) == y).double().mean()) * 100


class Shifted(Dataset[tuple[Tensor, Tensor]]):
    """The first 256 training images, shifted at random, with numbers from three generators; it may end the process."""

    def __init__(self, last: int | None = None) -> None:
        self.left = last

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        x, y, _, _ = digits()
        shift = int(torch.randint(-1, 2, ())), int(np.random.randint(-1, 2))
        return x[index].roll(shift, (1, 2)) * random.choice((0.5, 1.0)), y[index]


def loader(last: int | None = None, batch: int = 32) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(Shifted(last), batch, shuffle=True, generator=torch.Generator().manual_seed(5))


def start() -> SNN:
    return convert(trained(), digits()[0][:100], timesteps=4, readout_delay=0, percentile=99.0, report=False)


def run(checkpoint: str | None, last: int | None = None, every: int = 3) -> SNN:
    return finetune(
        start(), loader(last), 2, 3, quantized_epochs=2, checkpoint=checkpoint, checkpoint_every=every, report=False
    )


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
