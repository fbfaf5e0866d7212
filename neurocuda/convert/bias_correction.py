"""Bias correction: compensates the shift of channel means that clipped activations and rounded weights cause.

A neuron outputs at most theta, so a percentile below 100 clips the largest activations, and the means after them shift.
Channel by channel, from the input on, the bias of the layer before compensates that shift (Li et al. 2021, here on the
network of ReLU nodes clipped at theta, so that no spike is simulated). The shift by rounding is compensated likewise
(Nagel et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from neurocuda.compiler.grids import InputGrid
from neurocuda.convert.relu_network import compute, sum_of, walk
from neurocuda.convert.relu_to_spiking import as_rectifiers
from neurocuda.discretization.settings import Discretization
from neurocuda.graph import Graph, Node, align
from neurocuda.quantization.quantize import Quantized, quantize

_VALUES = 2**26


def corrected(
    graph: Graph, thresholds: Mapping[str, np.ndarray], x: Tensor, rounded: Mapping[str, Node] | None = None
) -> Graph:
    """The graph with biases such that the clipped network has the old channel means at the inputs of its ReLU nodes.

    The inputs of ReLU nodes and Outputs are corrected, where a layer with a bias has no other target.

    thresholds: theta of ReLU nodes; a node without one is not clipped. x: samples [B, *shape], of which as many as
    memory allows are used. rounded: the rounded nodes that will replace those of the graph.
    """
    instead = graph.nodes if rounded is None else rounded
    x = x[: max(1, _VALUES // max(int(np.prod(node.output_shape)) for node in graph.nodes.values()))]
    changed: dict[str, Node] = {}
    unclipped: dict[str, Tensor] = {}
    clipped: dict[str, Tensor] = {}
    for node, sources, spent in walk(graph):
        name = node.name
        if name in graph.inputs:
            unclipped[name] = clipped[name] = x.float()
            continue
        before, after = (
            sum_of([signals[source] for source in sources], node, x, torch.float32) for signals in (unclipped, clipped)
        )
        alone = [graph.nodes[source] for source in sources if graph.targets[source] == (name,)]
        biased = [layer for layer in alone if "bias" in layer.parameters]
        if (node.primitive.is_rectifier or node.primitive.is_terminal) and biased:
            shift = _mean(before) - _mean(after)
            layer = biased[0]
            bias = np.broadcast_to(layer.array("bias"), layer.bias_shape)
            moved = bias + shift.cpu().numpy().reshape(bias.shape)
            changed[layer.name] = replace(layer, parameters={**layer.parameters, "bias": moved})
            after = after + shift.to(after.dtype).reshape(-1, *[1] * (after.dim() - 2))
        unclipped[name] = compute(node, before)
        clipped[name] = compute(instead[name], after)
        if name in thresholds:
            theta = torch.from_numpy(align(thresholds[name], len(node.output_shape))).to(after)
            clipped[name] = clipped[name].minimum(theta)
        for source in spent:
            del unclipped[source], clipped[source]
    return replace(graph, nodes={**graph.nodes, **changed})


def quantized(graph: Graph, bits: int, grid: InputGrid, d: Discretization, x: Tensor | None) -> Quantized:
    """A graph from `spiking` with weights of so many bits, and biases that keep the channel means.

    x: samples [B, *shape] on the grid; None leaves the biases unchanged.
    """
    first = quantize(graph, bits, input_grid=grid, discretization=d)
    if x is None:
        return first
    before, after = as_rectifiers(graph), as_rectifiers(first.graph)
    moved = corrected(before, {}, x, after.nodes).nodes
    biased = {
        name: replace(node, parameters={**node.parameters, "bias": moved[name].array("bias").astype(np.float32)})
        for name, node in graph.nodes.items()
        if "bias" in node.parameters
    }
    return quantize(replace(graph, nodes={**graph.nodes, **biased}), bits, input_grid=grid, discretization=d)


def _mean(signal: Tensor) -> Tensor:
    """The mean of each channel, float64."""
    return signal.double().movedim(1, 0).flatten(1).mean(1)
