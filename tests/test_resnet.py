"""A ResNet-18 sized network of IF neurons, with weights on a grid, against the same network in plain PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import nir
import numpy as np
import torch
from torch.nn import functional

import neurocuda
from neurocuda import Discretization

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


def stepped(named: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, list[float]]:
    """The same network written by hand, one step at a time; also the firing rate of every population."""
    v: dict[str, torch.Tensor] = {}
    counts: dict[str, list[float]] = {}

    def fire(name: str, current: torch.Tensor) -> torch.Tensor:
        u = v.get(name, torch.zeros_like(current)) + current
        spikes = (u > 1).float()
        v[name] = torch.where(u > 1, 0.0, u)
        counts.setdefault(name, []).append(spikes.mean().item())
        return spikes

    outputs = []
    for frame in x:
        signal = fire("if1", functional.conv2d(frame, named["conv1"], padding=1))
        for name, _, _, stride in blocks():
            skip = signal
            if stride != 1:
                skip = functional.conv2d(signal, named[f"{name}.downsample"], stride=stride)
            inner = functional.conv2d(signal, named[f"{name}.conv1"], stride=stride, padding=1)
            inner = functional.conv2d(fire(f"{name}.if1", inner), named[f"{name}.conv2"], padding=1)
            signal = fire(f"{name}.if2", inner + skip)
        outputs.append(functional.linear(signal.sum((2, 3)), named["fc"]))
    return torch.stack(outputs), [sum(rates) / len(rates) for rates in counts.values()]


def test_executor_equals_the_hand_written_twin_at_every_step() -> None:
    named = weights()
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(8, 2, 3, 32, 32, generator=generator) < 0.3).float()
    net = neurocuda.load(nir_graph(named), Discretization(dt=DT), chunk=4)
    with torch.no_grad():
        found, _ = net(x)
        expected, rates = stepped(named, x)
    assert min(rates) > 0.005, f"a population that hardly fires shows little: {rates}"
    for step in range(8):
        assert torch.equal(found[step], expected[step]), f"step {step}: {found[step]} and {expected[step]}"


def test_every_order_and_width_of_a_proved_network_gives_the_same_bits() -> None:
    graph, d = neurocuda.from_nir(nir_graph(weights())), Discretization(dt=DT)
    assert neurocuda.certify(graph, d).exact
    draw = torch.Generator().manual_seed(4)
    x = (torch.rand(2, 1, 3, 32, 32, generator=draw) < 0.3).float()
    names = [name for name, node in graph.nodes.items() if "weight" in node.parameters]
    with torch.no_grad():
        found = neurocuda.load(graph, d).run(x, record=dict.fromkeys(names, ("input", "output"))).recordings
    for name in names:
        node, signal = graph.nodes[name], found[name]["input"].flatten(0, 1)
        weight = torch.from_numpy(node.array("weight").copy())
        order = torch.randperm(weight.shape[1], generator=draw)
        ways = {
            "float64": layer(node, signal.double(), weight.double()),
            "permuted": layer(node, signal[:, order], weight[:, order]),
            "bfloat16 products": layer(node, signal.bfloat16().float(), weight.bfloat16().float()),
            "int32": layer(node, signal.to(torch.int32), (weight * 256).to(torch.int32)) / 256,
        }
        for way, value in ways.items():
            same = torch.equal(value.double(), found[name]["output"].flatten(0, 1).double())
            assert same, f"node {name!r}: {way} gives other bits"


def layer(node: neurocuda.Node, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The layer alone, of any type; of integers by unfolding, as torch has no convolution of them."""
    if node.type == "Linear":
        return x @ weight.T
    stride, padding = node.numbers("stride"), node.numbers("padding")
    if x.is_floating_point():
        return functional.conv2d(x, weight, None, stride, padding)
    columns = functional.unfold(x.float(), weight.shape[2:], 1, padding, stride).to(torch.int32)
    return (weight.flatten(1) @ columns).reshape(len(x), len(weight), *node.output_shape[1:])
