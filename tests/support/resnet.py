"""A ResNet-18 sized network of IF neurons, with weights on a grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import nir
import numpy as np
import torch

WIDTHS = (64, 128, 256, 512)


DT = 1e-4


Block = tuple[str, int, int, int]


def blocks() -> Iterator[Block]:
    """Name, channels in, channels out and stride of the eight residual blocks of ResNet-18."""
    into = 64
    for stage, width in enumerate(WIDTHS):
        for number in range(2):
            yield f"layer{stage + 1}.{number}", into, width, 2 if stage and not number else 1
            into = width


def grid_weight(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Multiples of 2^-8 of the size that keeps about a tenth of the neurons firing."""
    fan_in = shape[1] * shape[2] * shape[3]
    return (torch.randn(shape, generator=generator) * 256 * 3.5 / fan_in**0.5).round().clamp(-127, 127) / 256


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    named = {"conv1": grid_weight(generator, 64, 3, 3, 3)}
    for name, into, out, stride in blocks():
        named[f"{name}.conv1"] = grid_weight(generator, out, into, 3, 3)
        named[f"{name}.conv2"] = grid_weight(generator, out, out, 3, 3)
        if stride != 1:
            named[f"{name}.downsample"] = grid_weight(generator, out, into, 1, 1)
    named["fc"] = grid_weight(generator, 10, 512, 1, 1)[:, :, 0, 0]
    return named


def nir_graph(named: dict[str, torch.Tensor]) -> nir.NIRGraph:
    """The network as a user would build it with the nir package."""

    def conv(name: str, size: int, stride: int) -> nir.Conv2d:
        weight = named[name].numpy()
        padding = (weight.shape[2] // 2,) * 2
        zeros = np.zeros(weight.shape[0], np.float32)
        return nir.Conv2d((size, size), weight, (stride, stride), padding, (1, 1), 1, zeros)

    def fire(channels: int, size: int) -> nir.IF:
        ones = np.ones((channels, size, size))
        return nir.IF(r=ones / DT, v_threshold=ones, v_reset=ones * 0)

    nodes: dict[str, Any] = {"input": nir.Input(np.array([3, 32, 32])), "conv1": conv("conv1", 32, 1)}
    nodes["if1"] = fire(64, 32)
    edges = [("input", "conv1"), ("conv1", "if1")]
    last, size = "if1", 32
    for name, _, out, stride in blocks():
        nodes[f"{name}.conv1"] = conv(f"{name}.conv1", size, stride)
        nodes[f"{name}.if1"] = fire(out, size // stride)
        nodes[f"{name}.conv2"] = conv(f"{name}.conv2", size // stride, 1)
        nodes[f"{name}.if2"] = fire(out, size // stride)
        edges += [(last, f"{name}.conv1"), (f"{name}.conv1", f"{name}.if1"), (f"{name}.if1", f"{name}.conv2")]
        edges += [(f"{name}.conv2", f"{name}.if2")]
        if stride == 1:
            edges.append((last, f"{name}.if2"))
        else:
            nodes[f"{name}.downsample"] = conv(f"{name}.downsample", size, stride)
            edges += [(last, f"{name}.downsample"), (f"{name}.downsample", f"{name}.if2")]
        last, size = f"{name}.if2", size // stride
    nodes["pool"] = nir.SumPool2d(np.array([size, size]), np.array([size, size]), np.array([0, 0]))
    nodes["flatten"] = nir.Flatten({"input": np.array([512, 1, 1])}, 0, -1)
    nodes["fc"] = nir.Linear(named["fc"].numpy())
    nodes["output"] = nir.Output(np.array([10]))
    chain = [last, "pool", "flatten", "fc", "output"]
    return nir.NIRGraph(nodes, edges + list(itertools.pairwise(chain)))
