"""Small models trained on scikit-learn's digits in seconds, for the tests of conversion."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from neurocuda.nn import safe_convolutions


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.down = nn.Conv2d(channels_in, channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.bn1(self.conv1(x)))) + self.down(x))


def residual() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), Residual(8, 8, 1), Residual(8, 16, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )


def pooled() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3, 1, 1), nn.ReLU6()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


MODELS = {"residual": residual, "pooled": pooled}


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [N, 1, 8, 8] and labels to train with, and to test with."""
    found = load_digits()
    x = torch.from_numpy(found.images).float().unsqueeze(1) / 8 - 1
    y = torch.from_numpy(found.target).long()
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[chosen], y[chosen]
    return x[:1400], y[:1400], x[1400:], y[1400:]


@cache
def trained(name: str) -> nn.Module:
    """A model, trained, in eval mode."""
    x, y, _, _ = digits()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = MODELS[name]()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(12):
            for chosen in torch.randperm(len(x)).split(50):
                with safe_convolutions():
                    loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()
