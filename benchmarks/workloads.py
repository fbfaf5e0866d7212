"""The rows: which network, which input, at which firing rate."""

import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.problem import Network, Neuron, Problem
from examples.digits.network import FILE as DIGITS_FILE
from examples.digits.network import digits
from neurocuda import Discretization, Graph, NeuroCUDAWarning, Node, from_nir, load, quantize, write

DT = 1e-4
"""Seconds of a step in every row but the paper's CNN, which counts steps."""

PAPER = Path(__file__).resolve().parents[2] / "shared" / "nir-paper"
"""The files published with the NIR paper; `--paper` names another place."""

QUICK_STEPS = 8


def single_population(paper: Path, quick: bool) -> Problem:
    """LIF neurons alone, under noise. The gain is 1 and the decay 15/16, which every tool can state exactly."""
    steps, count = (QUICK_STEPS if quick else 100), (10_000 if quick else 100_000)
    x = torch.rand(steps, 1, count, generator=seeded()) * 0.36
    title = f"LIF alone, N = {count}"
    return problem("lif", title, lif_graph(count), Discretization(dt=DT), x, networks.lif, separate=True)


def braille(row: str, amplitude: float | None) -> Callable[[Path, bool], Problem]:
    """The recurrent network of the paper, under events in a tenth of the inputs, or with an amplitude under a
    random current for each sample and channel, held for all steps, which makes it fire more.
    """

    def build(paper: Path, quick: bool) -> Problem:
        steps = 2 * QUICK_STEPS if quick else 256
        if amplitude is None:
            x = (torch.rand(steps, 64, 12, generator=seeded()) < 0.1).float()
        else:
            x = torch.randn(1, 64, 12, generator=seeded()).repeat(steps, 1, 1) * amplitude
        graph = nir.read(paper / "rnn" / "braille_noDelay_bias_zero.nir", type_check=False)
        return problem(row, "Braille RSNN", graph, Discretization(dt=DT), x, networks.braille)

    return build


def paper_cnn(paper: Path, quick: bool) -> Problem:
    """The paper's N-MNIST network: IF with r = 1, one step is dt = 1; 2 % of the pixels have an event."""
    graph = nir.read(paper / "cnn" / "cnn_sinabs.nir", type_check=False)
    x = (torch.rand(QUICK_STEPS * 2 if quick else 300, 4, 2, 34, 34, generator=seeded()) < 0.02).float()
    return problem("cnn", "N-MNIST CNN of the paper", graph, Discretization(dt=1.0), x, networks.paper_cnn)


def quantized_cnn(paper: Path, quick: bool) -> Problem:
    """The same with weights of 8 bits: proved exact, layer by layer."""
    published = paper_cnn(paper, quick)
    graph = quantized(published.nir, published.discretization)
    title = "N-MNIST CNN of the paper, 8-bit weights"
    return problem("cnn-8bit", title, graph, published.discretization, published.x, networks.paper_cnn)


def quantized(graph: nir.NIRGraph, d: Discretization) -> nir.NIRGraph:
    """With weights of 8 bits."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "quantized.nir"
        write(quantize(graph, 8, discretization=d).graph, file)
        return nir.read(file, type_check=False)


def resnet18(paper: Path, quick: bool) -> Problem:
    """ResNet-18 of IF neurons, weights k/256, about a tenth firing.

    The thresholds lie between two points of that grid, so that > and >= are the same here.
    """
    x = (torch.rand(4 if quick else 8, 1 if quick else 4, 3, 32, 32, generator=seeded(1)) < 0.3).float()
    return problem("resnet", "ResNet-18", resnet_graph(), Discretization(dt=DT), x, networks.resnet18)


def resnet_step(paper: Path, quick: bool) -> Problem:
    """One step of the ResNet-18 for one sample."""
    x = (torch.rand(4 if quick else 8, 1, 3, 32, 32, generator=seeded(1)) < 0.3).float()
    title = "One step of ResNet-18"
    return problem(
        "step-resnet", title, resnet_graph(), Discretization(dt=DT), x, networks.resnet18, one_call_a_step=True
    )


def digits_step(paper: Path, quick: bool) -> Problem:
    """One step of the digits network for one sample: an image held, as in the example."""
    images, _ = digits(held_out=True)
    steps = QUICK_STEPS if quick else 64
    x = images[:1].expand(steps, 1, 1, 8, 8)
    graph = nir.read(DIGITS_FILE)
    title = "One step of the digits network"
    return problem("step-digits", title, graph, Discretization(dt=DT), x, networks.digits, one_call_a_step=True)


def braille_step(paper: Path, quick: bool) -> Problem:
    """One step of the Braille network for one sample."""
    graph = nir.read(paper / "rnn" / "braille_noDelay_bias_zero.nir", type_check=False)
    x = (torch.rand(QUICK_STEPS if quick else 64, 1, 12, generator=seeded()) < 0.1).float()
    title = "One step of the Braille RSNN"
    return problem("step-braille", title, graph, Discretization(dt=DT), x, networks.braille, one_call_a_step=True)


ROWS: Mapping[str, Callable[[Path, bool], Problem]] = {
    "lif": single_population,
    "braille": braille("braille", None),
    "braille-10": braille("braille-10", 1.4),
    "braille-30": braille("braille-30", 9.6),
    "cnn": paper_cnn,
    "cnn-8bit": quantized_cnn,
    "resnet": resnet18,
    "step-digits": digits_step,
    "step-braille": braille_step,
    "step-resnet": resnet_step,
}


def problem(
    row: str, title: str, graph: nir.NIRGraph, d: Discretization, x: Tensor, network: Network, **options: Any
) -> Problem:
    """The problem, with layers and neurons read from the graph, and its measured firing rate in the title.

    That of a recurrent network is the rate of the recurrent population, which sets the work.
    """
    flat = from_nir(graph)
    neurons, gains = _neurons(flat, d)
    made = {name: _layer(node, gains) for name, node in flat.nodes.items() if name not in neurons}
    layers = {name: layer for name, layer in made.items() if layer is not None}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", NeuroCUDAWarning)
        spiking = [name for name, neuron in neurons.items() if neuron.threshold is not None]
        counted = ["lif1.lif"] if network is networks.braille else spiking
        recorded = load(flat, d).run(x, record=dict.fromkeys(counted, "spikes")).recordings
    fired = torch.cat([signals["spikes"].flatten() for signals in recorded.values()]).mean().item()
    title = f"{title}, T = {x.shape[0]}, B = {x.shape[1]}, {fired:.1%} firing"
    return Problem(row, title, graph, flat, d, x, network, layers, neurons, **options)


def _neurons(graph: Graph, d: Discretization) -> tuple[dict[str, Neuron], dict[str, float]]:
    """The populations in the order of the network, and for each layer the gain that its weights take over."""
    neurons, gains = {}, {}
    for node in _along(graph):
        if node.type not in ("IF", "LIF", "LI", "CubaLIF"):
            continue
        p = {name: _one(node, name) for name in node.parameters}
        if p.get("v_leak", 0) != 0 or p.get("v_reset", 0) != 0:
            raise ValueError(f"{node.name}: expected v_leak = v_reset = 0, found {p}")
        synapse = None
        if node.type == "CubaLIF":
            share, synapse_share = d.dt / p["tau_mem"], d.dt / p["tau_syn"]
            gain, synapse = p["r"] * share * p["w_in"] * synapse_share, 1 - synapse_share
        elif node.type == "IF":
            share, gain = 0.0, p["r"] * d.dt
        else:
            share = d.dt / p["tau"]
            gain = p["r"] * share
        neurons[node.name] = Neuron(node.name, node.output_shape, 1 - share, p.get("v_threshold"), synapse)
        if abs(gain - 1) > 1e-6:
            sources = [source for source, target in graph.edges if target == node.name]
            gains.update(dict.fromkeys(sources, gain))
    return neurons, gains


def _along(graph: Graph) -> Iterable[Node]:
    """The nodes in the order in which they compute."""
    names = [lowered.node.name for stage in load(graph).schedule.stages for lowered in stage.nodes]
    return [graph.nodes[name] for name in names]


def _one(node: Node, parameter: str) -> float:
    values = np.unique(node.array(parameter))
    if values.size != 1:
        raise ValueError(f"{node.name}: expected one {parameter} for all neurons, found {values.size}")
    return float(values[0])


def _layer(node: Node, gains: Mapping[str, float]) -> nn.Module | None:
    """A layer without state as a module of torch, its weights times the gain of the neurons it feeds."""
    if node.type in ("Input", "Output"):
        return None
    if node.type == "Flatten":
        return nn.Flatten(1)
    if node.type == "SumPool2d":
        return nn.AvgPool2d(_pair(node, "kernel_size"), _pair(node, "stride"), divisor_override=1)
    weight = torch.tensor(node.array("weight")).float() * gains.get(node.name, 1.0)
    bias = torch.tensor(node.array("bias")).float() if "bias" in node.parameters else torch.zeros(1)
    layer: nn.Linear | nn.Conv2d
    if node.type in ("Affine", "Linear"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(bias.any()))
    else:
        out, into, height, width = weight.shape
        stride, padding = _pair(node, "stride"), _pair(node, "padding")
        layer = nn.Conv2d(into, out, (height, width), stride, padding, bias=bool(bias.any()))
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        layer.bias = nn.Parameter(bias * gains.get(node.name, 1.0), requires_grad=False)
    return layer


def _pair(node: Node, parameter: str) -> tuple[int, int]:
    first, second = node.numbers(parameter)
    return first, second


def lif_graph(count: int) -> nir.NIRGraph:
    """LIF neurons alone, with a gain of 1 and a decay of 15/16."""
    ones = np.ones(count)
    node = nir.LIF(tau=16 * DT * ones, r=16 * ones, v_leak=0 * ones, v_threshold=ones, v_reset=0 * ones)
    return _sequence([count], [count], {"lif": node})


def resnet_graph(counts: Sequence[int] = networks.RESNET18, on_grid: bool = True) -> nir.NIRGraph:
    """A ResNet as a user would build it with the nir package; its weights of 8 bits, or any of float32."""
    generator = seeded()

    def conv(out: int, into: int, kernel: int, size: int, stride: int) -> nir.Conv2d:
        weight = _weight(generator, on_grid, out, into, kernel, kernel)
        padding = (kernel // 2,) * 2
        return nir.Conv2d((size, size), weight, (stride, stride), padding, (1, 1), 1, np.zeros(out, np.float32))

    def fire(channels: int, size: int) -> nir.IF:
        ones = np.ones((channels, size, size))
        return nir.IF(r=ones / DT, v_threshold=ones * (1 - 2.0**-9), v_reset=ones * 0)

    nodes: dict[str, Any] = {"conv1": conv(64, 3, 3, 32, 1), "if1": fire(64, 32)}
    edges = [("input", "conv1"), ("conv1", "if1")]
    last, size = "if1", 32
    for name, into, out, stride in networks.blocks(counts):
        nodes[f"{name}_conv1"], nodes[f"{name}_if1"] = conv(out, into, 3, size, stride), fire(out, size // stride)
        nodes[f"{name}_conv2"], nodes[f"{name}_if2"] = conv(out, out, 3, size // stride, 1), fire(out, size // stride)
        edges += pairwise([last, f"{name}_conv1", f"{name}_if1", f"{name}_conv2", f"{name}_if2"])
        if stride == 1:
            edges.append((last, f"{name}_if2"))
        else:
            nodes[f"{name}_downsample"] = conv(out, into, 1, size, stride)
            edges += pairwise([last, f"{name}_downsample", f"{name}_if2"])
        last, size = f"{name}_if2", size // stride
    nodes["pool"] = nir.SumPool2d(np.array([size, size]), np.array([size, size]), np.array([0, 0]))
    nodes["flatten"] = nir.Flatten({"input": np.array([512, 1, 1])}, 0, -1)
    nodes["fc"] = nir.Linear(_weight(generator, on_grid, 10, 512, 1, 1)[:, :, 0, 0])
    edges += pairwise([last, "pool", "flatten", "fc", "output"])
    return nir.NIRGraph(
        {"input": nir.Input(np.array([3, 32, 32])), **nodes, "output": nir.Output(np.array([10]))}, edges
    )


def _weight(generator: torch.Generator, on_grid: bool, *shape: int) -> np.ndarray[Any, Any]:
    """Of the size that keeps about a tenth of the neurons firing; on_grid: multiples of 1/256."""
    fan_in = shape[1] * shape[2] * shape[3]
    random = torch.randn(shape, generator=generator) * 256 * 1.75 / fan_in**0.5
    weight: np.ndarray[Any, Any] = ((random.round().clamp(-127, 127) if on_grid else random) / 256).numpy()
    return weight


def _sequence(into: list[int], out: list[int], nodes: Mapping[str, Any]) -> nir.NIRGraph:
    ends = {"input": nir.Input(np.array(into)), "output": nir.Output(np.array(out))}
    return nir.NIRGraph({**ends, **nodes}, list(pairwise(["input", *nodes, "output"])))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
