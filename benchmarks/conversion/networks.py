"""The networks that are converted, and their training, whose weights are kept between runs."""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.conversion import data
from neurocuda.nn import safe_convolutions

CACHE = Path.home() / ".cache" / "neurocuda"


class Block(nn.Module):
    """The basic block of ResNet-18: two convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.downsample(x))


def resnet18(width: int = 16) -> nn.Module:
    """ResNet-18 as it is laid out for small images: a 3x3 stem, four stages of two blocks."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for stage in range(4):
        following = width * 2**stage
        layers += [Block(channels, following, 1 if stage == 0 else 2), Block(following, following, 1)]
        channels = following
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def vgg(width: int = 16) -> nn.Module:
    """A few convolutions with batch normalisation, MaxPool after each second, two linear layers."""
    layers: list[nn.Module] = []
    channels = 1
    for stage in range(3):
        for _ in range(2):
            following = width * 2**stage
            layers += [nn.Conv2d(channels, following, 3, 1, 1), nn.BatchNorm2d(following), nn.ReLU()]
            channels = following
        layers.append(nn.MaxPool2d(2))
    hidden = nn.Linear(channels * 9, 8 * width)
    return nn.Sequential(*layers, nn.Flatten(), hidden, nn.ReLU(), nn.Dropout(0.3), nn.Linear(8 * width, 10))


BUILDERS: dict[str, Callable[[], nn.Module]] = {"resnet18": resnet18, "vgg": vgg}


@dataclass(frozen=True)
class Training:
    """All that determines the weights, beside the network and the data."""

    epochs: int = 4
    batch: int = 128
    peak_rate: float = 0.1
    rising: float = 0.2
    momentum: float = 0.9
    decay: float = 5e-4
    seed: int = 1


def trained(name: str, folder: Path, console: Console, training: Training | None = None) -> nn.Module:
    """The network, trained on the training images, in eval mode: trained once, then read from the cache."""
    training = training or Training()
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        network = BUILDERS[name]()
    path = CACHE / f"fashion-mnist-{name}-{_key(network, folder, training)}.pt"
    if not path.is_file():
        _train(network, folder, console, training)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(network.state_dict(), partial)
        partial.replace(path)
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def _key(network: nn.Module, folder: Path, training: Training) -> str:
    layout = [(name, tuple(value.shape)) for name, value in network.state_dict().items()]
    return hashlib.sha256(repr((layout, asdict(training), data.fingerprint(folder))).encode()).hexdigest()[:12]


def _train(network: nn.Module, folder: Path, console: Console, training: Training) -> None:
    """Stochastic gradient descent under a rate that rises, then falls to nothing (one cycle)."""
    images, labels = data.read(folder, "train")
    generator = torch.Generator().manual_seed(0)
    network.to(memory_format=torch.channels_last).train()
    options = {"momentum": training.momentum, "weight_decay": training.decay, "nesterov": True}
    optimizer = torch.optim.SGD(network.parameters(), training.peak_rate, **options)
    steps = training.epochs * math.ceil(len(images) / training.batch)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.peak_rate, total_steps=steps, pct_start=training.rising
    )
    started = time.perf_counter()
    for epoch in range(training.epochs):
        loss_sum = 0.0
        for x, y in data.augmented(images, labels, training.batch, generator):
            x = x.contiguous(memory_format=torch.channels_last)
            with safe_convolutions():
                loss = nn.functional.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
            loss_sum += loss.item() * len(x)
        minutes = (time.perf_counter() - started) / 60
        console.print(f"epoch {epoch + 1} of {training.epochs}: loss {loss_sum / len(images):.4f}, {minutes:.1f} min")


def scores(network: nn.Module, images: Tensor, batch: int = 500) -> Tensor:
    """What the network returns for all images."""
    with torch.no_grad():
        return torch.cat([network(x) for x in images.split(batch)])
