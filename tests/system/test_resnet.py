"""A ResNet-18 sized network of IF neurons, with weights on a grid, against the same network in plain PyTorch."""

from __future__ import annotations

import torch
from resnet import DT, blocks, nir_graph, weights
from torch.nn import functional

import neurocuda
from neurocuda import Discretization


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
