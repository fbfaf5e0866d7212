"""Biases that make up for what saturated neurons cannot carry, and for what rounded weights do to means.

A neuron gives at most theta, so a percentile below 100 cuts off the largest activations, and the means behind it shift.
Channel by channel, from the input on, the bias of the layer before takes that shift back (bias correction, Li et al.
2021, here against the network of rectifiers cut off at theta, so that no spike has to be simulated). Rounding shifts
means too, and its shift is taken back in the same way (Nagel et al. 2019).
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
    """The graph with biases such that, cut off at its thresholds, each channel has its old mean before it is rectified.

    thresholds: theta of ReLU nodes; one that has none is not cut off. x: samples [B, *shape], as many as memory allows
    of which are used. rounded: what will stand for the nodes of the graph, whose means are the ones to be kept then.
    Corrected is what ReLU nodes and Outputs take, where a layer with a bias feeds nothing but them.
    """
    instead = graph.nodes if rounded is None else rounded
    x = x[: max(1, _VALUES // max(int(np.prod(node.output_shape)) for node in graph.nodes.values()))]
    changed: dict[str, Node] = {}
    whole: dict[str, Tensor] = {}
    cut: dict[str, Tensor] = {}
    for node, sources, spent in walk(graph):
        name = node.name
        if name in graph.inputs:
            whole[name] = cut[name] = x.float()
            continue
        before, after = (
            sum_of([signals[source] for source in sources], node, x, torch.float32) for signals in (whole, cut)
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
        whole[name] = compute(node, before)
        cut[name] = compute(instead[name], after)
        if name in thresholds:
            theta = torch.from_numpy(align(thresholds[name], len(node.output_shape))).to(after)
            cut[name] = cut[name].minimum(theta)
        for source in spent:
            del whole[source], cut[source]
    return replace(graph, nodes={**graph.nodes, **changed})


def quantized(graph: Graph, bits: int, grid: InputGrid, d: Discretization, x: Tensor | None) -> Quantized:
    """A graph from `spiking` with weights of so many bits; what `quantize` does, and biases that keep means.

    x: samples [B, *shape] on the grid, None to leave the biases what they are.
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
