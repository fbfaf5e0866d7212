"""Bounds of the input of each neuron, from the weights between it and the spikes or Inputs before it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurocuda.graph import Graph, Node

_OF_INPUTS = 255.0
"""The largest magnitude of an Input, and the largest spike count of a step: that of uint8."""


@dataclass(frozen=True)
class Bounds:
    """The least and the largest value that any element of a signal can have."""

    low: float
    high: float


def input_bounds(graph: Graph, *, spikes_per_step: str) -> dict[str, Bounds]:
    """Bounds of the summed input of each node, where they are known.

    A spiking neuron outputs 0 or 1 (with many spikes per step, at most 255), an Input values from -255 to 255. The
    output of other neurons is not bounded here.
    """
    terminals = frozenset(graph.inputs)
    inputs: dict[str, Bounds] = {}
    outputs: dict[str, Bounds] = {}
    most = 1.0 if spikes_per_step == "one" else _OF_INPUTS
    waiting = deque(graph.nodes)
    for node in graph.nodes.values():
        if node.primitive.emits_spikes:
            outputs[node.name] = Bounds(0.0, most if node.primitive.is_neuron else 1.0)
        elif node.name in terminals:
            outputs[node.name] = Bounds(-_OF_INPUTS, _OF_INPUTS)
    while waiting:
        node = graph.nodes[waiting.popleft()]
        sources = graph.sources[node.name]
        if node.name in inputs or node.name in terminals or not all(source in outputs for source in sources):
            continue
        inputs[node.name] = _sum([outputs[source] for source in sources])
        if node.name not in outputs and not node.primitive.is_neuron:
            outputs[node.name] = _through(node, inputs[node.name])
            waiting.extend(graph.targets[node.name])
    return inputs


def _sum(bounds: Sequence[Bounds]) -> Bounds:
    return Bounds(sum(b.low for b in bounds), sum(b.high for b in bounds))


def _through(node: Node, x: Bounds) -> Bounds:
    """Bounds of the output of a node without a membrane potential."""
    primitive = node.primitive
    if primitive.is_delay or primitive.is_convolution or primitive.is_pool:  # zeros before the start and at the rim
        x = Bounds(min(x.low, 0.0), max(x.high, 0.0))
    if primitive.is_pool:
        area = 1 if primitive.averages else math.prod(node.numbers("kernel_size"))
        return Bounds(x.low * area, x.high * area)
    if primitive.weight_field == "scale":
        scale = node.array("scale").astype(np.float64)
        ends = [float(scale.min()), float(scale.max())]
        products = [end * limit for end in ends for limit in (x.low, x.high)]
        return Bounds(min(products), max(products))
    if not primitive.is_weighted:
        return x
    weight = node.array("weight")
    axes = -1 if primitive.is_matrix else tuple(range(1, weight.ndim))
    positive = np.maximum(weight, 0).sum(axis=axes, dtype=np.float64)
    negative = np.minimum(weight, 0).sum(axis=axes, dtype=np.float64)
    bias = node.array("bias").astype(np.float64) if "bias" in node.parameters else np.zeros(())
    low = positive * x.low + negative * x.high + bias
    high = positive * x.high + negative * x.low + bias
    return Bounds(float(low.min()), float(high.max()))
