"""The networks: steps, samples, minimum bytes and multiply-adds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nir
import torch
from torch import Tensor

from benchmarks import networks, workloads
from benchmarks.on_gpu.moved import STATE, bytes_of_state, bytes_per_step
from benchmarks.problem import Network, Problem
from examples.digits.network import FILE as DIGITS_FILE
from examples.digits.network import digits
from neurocuda import Discretization, Graph, from_nir
from neurocuda.compiler.lowering import multiply_adds
from neurocuda.graph import Node

Draw = Callable[[Sequence[int]], Tensor]
"""An input of a shape."""

_VIEWS = ("Input", "Output", "Flatten")


@dataclass(frozen=True)
class Row:
    """A network, and what is drawn as its input for a shape [T, B, *].

    one_call_a_step: steps arrive one at a time. separate: its neurons do not see each other.
    """

    name: str
    title: str
    graph: Callable[[Path], nir.NIRGraph]
    network: Network
    steps: int
    batch: int
    input: Draw
    dt: float = workloads.DT
    one_call_a_step: bool = False
    separate: bool = False

    def problem(self, paper: Path) -> Problem:
        """On the CPU, with input and measured firing rate."""
        graph = self.graph(paper)
        flat = from_nir(graph)
        return workloads.problem(
            self.name,
            self.title,
            graph,
            Discretization(dt=self.dt),
            self.input((self.steps, self.batch, *flat.nodes[flat.inputs[0]].output_shape)),
            self.network,
            one_call_a_step=self.one_call_a_step,
            separate=self.separate,
        )


def _noise(shape: Sequence[int]) -> Tensor:
    return torch.rand(shape, generator=workloads.seeded(1)) * 0.36


def _events(share: float) -> Draw:
    return lambda shape: (torch.rand(shape, generator=workloads.seeded(1)) < share).float()


def _images(shape: Sequence[int]) -> Tensor:
    """Images of digits, held over all steps."""
    images, _ = digits(held_out=True)
    return images[: shape[1]].expand(shape).clone()


def _digits(paper: Path) -> nir.NIRGraph:
    return nir.read(DIGITS_FILE)


def _braille(paper: Path) -> nir.NIRGraph:
    return nir.read(paper / "rnn" / "braille_noDelay_bias_zero.nir", type_check=False)


def _cnn(paper: Path) -> nir.NIRGraph:
    return nir.read(paper / "cnn" / "cnn_sinabs.nir", type_check=False)


def _resnet(counts: tuple[int, ...], on_grid: bool = True) -> Callable[[Path], nir.NIRGraph]:
    return lambda paper: workloads.resnet_graph(counts, on_grid)


def _lif(count: int) -> Callable[[Path], nir.NIRGraph]:
    return lambda paper: workloads.lif_graph(count)


def _rows(quick: bool) -> list[Row]:
    def of(full: int, small: int) -> int:
        return small if quick else full

    def lif(exponent: int, steps: int) -> Row:
        name, count = f"lif-2^{exponent}", 2 ** of(exponent, 10)
        return Row(name, f"LIF alone, N = {count}", _lif(count), networks.lif, of(steps, 4), 1, _noise, separate=True)

    def steps(name: str, title: str, graph: Callable[[Path], nir.NIRGraph], network: Network, draw: Draw) -> Row:
        return Row(
            f"step-{name}", f"Single steps of the {title}", graph, network, of(64, 4), 1, draw, one_call_a_step=True
        )

    braille, digit, few, many = networks.braille, networks.digits, _events(0.02), _events(0.3)
    resnet18, resnet34 = _resnet(networks.RESNET18), _resnet(networks.RESNET34)
    floats = _resnet(networks.RESNET18, on_grid=False)
    return [
        lif(14, 128),
        lif(20, 32),
        lif(24, 8),
        Row("digits", "Digits network", _digits, digit, of(64, 4), of(256, 2), _images),
        Row("braille", "Braille RSNN", _braille, braille, of(256, 8), of(256, 2), _events(0.1)),
        Row("cnn", "N-MNIST CNN of the paper", _cnn, networks.paper_cnn, of(300, 8), of(32, 2), few, dt=1.0),
        Row("resnet18", "ResNet-18 of 8 bits", resnet18, networks.resnet18, of(8, 2), of(32, 1), many),
        Row("resnet18-float", "ResNet-18 of float32", floats, networks.resnet18, of(8, 2), of(32, 1), many),
        Row("resnet34", "ResNet-34 of 8 bits", resnet34, networks.resnet34, of(8, 2), of(32, 1), many),
        steps("digits", "digits network", _digits, digit, _images),
        steps("braille", "Braille RSNN", _braille, braille, _events(0.1)),
    ]


def rows(quick: bool = False) -> Mapping[str, Row]:
    """All rows by name; quick: the same at small sizes."""
    return {row.name: row for row in _rows(quick)}


def neuron_steps(graph: Graph, steps: int, batch: int) -> int:
    sizes = [math.prod(node.input_shape) for node in graph.nodes.values() if node.primitive.is_neuron]
    return steps * batch * sum(sizes)


def bytes_of(graph: Graph, steps: int, batch: int) -> float:
    """Minimum bytes of a network in float32, layer by layer: branches in, results out; weights and states once."""
    total = 0.0
    for node in graph.nodes.values():
        if node.type in _VIEWS:
            continue
        sources = [source for source, target in graph.edges if target == node.name]
        if node.primitive.is_neuron:
            size = batch * math.prod(node.input_shape)
            total += bytes_per_step(["fp32"] * len(sources), "fp32") * size * steps
            total += bytes_of_state(size, synapse="tau_syn" in node.parameters)
        else:
            read = sum(math.prod(graph.nodes[source].output_shape) for source in sources)
            total += STATE * steps * batch * (read + math.prod(node.output_shape)) + STATE * _weights(node)
    return total


def _weights(node: Node) -> int:
    return sum(node.array(name).size for name in ("weight", "bias", "scale") if name in node.parameters)


def products_of(graph: Graph, steps: int, batch: int) -> int:
    """Multiply-adds of its layers, computed densely."""
    layers = [node for node in graph.nodes.values() if node.primitive.is_weighted]
    return steps * batch * sum(multiply_adds(node) for node in layers)
