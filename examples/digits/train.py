"""Trains the digits network with surrogate gradients and writes digits.nir: a minute or two on two cores.

python -m examples.digits.train [FILE]
"""

import sys
import time
from pathlib import Path

import nir
import torch
import torch.nn.functional as F
from torch import Tensor

from examples.digits.network import FILE, DigitsNetwork, constant_current, digits, from_nir, to_nir

SEED, EPOCHS, BATCH, LEARNING_RATE = 0, 40, 64, 4e-3
TARGET_RATE = 0.1  # firing rate above which a layer adds to the loss


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by -1, 0 or 1 pixels in both directions, zeros moving in."""
    padded = F.pad(images, (1, 1, 1, 1))
    corner = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([p[:, y : y + 8, x : x + 8] for p, (y, x) in zip(padded, corner, strict=True)])


def loss(network: DigitsNetwork, images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the read-out over the second half of the steps, plus a penalty for high firing rates."""
    output, spikes = network(constant_current(images))
    half = output[len(output) // 2 :]
    cross_entropy = F.cross_entropy(half.flatten(0, 1), labels.repeat(len(half)), label_smoothing=0.05)
    excess = sum(F.relu(s.mean() - TARGET_RATE) for s in spikes.values())
    return cross_entropy + excess


def train() -> DigitsNetwork:
    """Trains the network on the training part; the held-out part is not used."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    network = DigitsNetwork(rounded=True)
    images, labels = digits(held_out=False)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for epoch in range(EPOCHS):
        begin, total = time.perf_counter(), 0.0
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            optimizer.zero_grad()
            value = loss(network, shifted(images[batch], generator), labels[batch])
            value.backward()
            optimizer.step()
            total += value.item() * len(batch)
        schedule.step()
        seconds = time.perf_counter() - begin
        print(f"epoch {epoch + 1:2d}  loss {total / len(images):.3f}  {seconds:.1f} s", flush=True)
    return network


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    nir.write(path, to_nir(train()))
    network = from_nir(path)
    print(f"{path}: {path.stat().st_size} bytes")
    for name, held_out in (("training", False), ("held-out", True)):
        images, labels = digits(held_out)
        output, spikes = network(constant_current(images))
        accuracy = (output[-1].argmax(1) == labels).double().mean()
        rates = "  ".join(f"{layer} {s.mean():.3f}" for layer, s in spikes.items())
        print(f"{name} accuracy {accuracy:.2%}; spikes per neuron and step: {rates}")


if __name__ == "__main__":
    main()
