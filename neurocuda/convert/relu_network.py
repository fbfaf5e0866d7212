"""Runs a traced network as it is, rectifiers and all, on frames: what calibration and tests look at."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import networkx
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neurocuda.errors import ArgumentError
from neurocuda.graph import Graph, Node, align
from neurocuda.ops import pointwise


def in_order(graph: Graph) -> tuple[str, ...]:
    """The nodes of a graph without cycles, each after its sources; of those that could come next, the first by name."""
    digraph = networkx.DiGraph(list(graph.edges))
    digraph.add_nodes_from(graph.nodes)
    return tuple(networkx.lexicographical_topological_sort(digraph))


def rectifiers(graph: Graph) -> tuple[str, ...]:
    """The names of the ReLU nodes, in the order in which signals reach them."""
    return tuple(name for name in in_order(graph) if graph.nodes[name].type == "ReLU")


def evaluate(
    graph: Graph, x: Tensor, record: Collection[str] = (), dtype: torch.dtype = torch.float32
) -> tuple[Any, dict[str, Tensor]]:
    """What a graph from `trace` computes for frames x [B, *shape], in plain torch, and what some of its nodes gave.

    Weights are rounded to `dtype`, in which all is computed, on the device of x. The first of the results is a tensor
    [B, *shape] where the graph has one Output, otherwise a dict of them by name; the second holds the outputs of the
    nodes named in `record`. Raises `ArgumentError` for an x or a name that does not fit, and for nodes that have
    a state.
    """
    missing = sorted(set(record) - set(graph.nodes))
    if missing:
        raise ArgumentError(f"record: expected names of nodes, found {missing[0]!r}")
    shape = graph.nodes[graph.inputs[0]].output_shape
    if tuple(x.shape[1:]) != shape or x.dim() == 0:
        raise ArgumentError(f"x: expected a tensor [B, {', '.join(map(str, shape))}], found shape {tuple(x.shape)}")
    order = in_order(graph)
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    last: dict[str, str] = {}
    for source, target in graph.edges:
        sources[target].append(source)
    for name in order:
        last.update(dict.fromkeys(sources[name], name))
    signals: dict[str, Tensor] = {}
    for name in order:
        node = graph.nodes[name]
        if node.type == "Input":
            signals[name] = x.to(dtype)
            continue
        total = sum_of([signals[source] for source in sources[name]], node, x, dtype)
        signals[name] = compute(node, total)
        for source in set(sources[name]):
            if last[source] == name and source not in record:
                del signals[source]
    outputs = {name: signals[name] for name in graph.outputs}
    recorded = {name: signals[name] for name in record}
    return (outputs[graph.outputs[0]] if len(outputs) == 1 else outputs), recorded


def sum_of(branches: list[Tensor], node: Node, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of the edges into a node, [B, *shape]; zero where there are none, for as many samples as x has."""
    if not branches:
        return torch.zeros((x.shape[0], *node.input_shape), dtype=dtype, device=x.device)
    total = branches[0]
    for branch in branches[1:]:
        total = total + branch
    return total


def compute(node: Node, x: Tensor) -> Tensor:
    """What one node of a network of rectifiers gives for its sum x [B, *shape]."""
    if node.type not in _COMPUTE:
        raise ArgumentError(f"graph, node {node.name!r}: expected {', '.join(_COMPUTE)}, found {node.type}")
    return _COMPUTE[node.type](node, x)


def _same(node: Node, x: Tensor) -> Tensor:
    return x


def _rectified(node: Node, x: Tensor) -> Tensor:
    cap = node.parameters.get("cap")
    return x.clamp(0, float(cap) if isinstance(cap, np.ndarray) else None)


def _array(node: Node, field: str, like: Tensor) -> Tensor:
    return torch.tensor(node.array(field), dtype=like.dtype, device=like.device)


def _matrix(node: Node, x: Tensor) -> Tensor:
    weight = _array(node, "weight", x)
    bias = _array(node, "bias", x) if "bias" in node.parameters else None
    if weight.dim() == 2:
        return functional.linear(x, weight, bias if bias is None else bias.expand(weight.shape[0]))
    y = torch.matmul(weight, x.unsqueeze(-1)).squeeze(-1)
    return y if bias is None else y + bias


def _convolution(node: Node, x: Tensor) -> Tensor:
    return convolve(node, x, _array(node, "weight", x), _array(node, "bias", x))


def convolve(node: Node, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution of a node, with weights of its shape."""
    padding = node.parameters["padding"]
    where = padding if isinstance(padding, str) else node.numbers("padding")
    stride, dilation, groups = node.numbers("stride"), node.numbers("dilation"), node.number("groups")
    return pointwise.convolve(x, weight, bias.expand(weight.shape[0]), stride, where, dilation, groups)


def _scaled(node: Node, x: Tensor) -> Tensor:
    scale = align(node.array("scale"), x.dim() - 1)
    return x * torch.tensor(scale, dtype=x.dtype, device=x.device)


def _pool(node: Node, x: Tensor) -> Tensor:
    kernel, stride, (rows, columns) = (node.numbers(field) for field in ("kernel_size", "stride", "padding"))
    divisor = 1 if node.type == "SumPool2d" else kernel[0] * kernel[1]
    padded = functional.pad(x, (columns, columns, rows, rows)) if rows or columns else x  # more than torch's half
    return functional.avg_pool2d(padded, kernel, stride, divisor_override=divisor)


def _flattened(node: Node, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], *node.output_shape)


_COMPUTE: dict[str, Callable[[Node, Tensor], Tensor]] = {
    "Output": _same,
    "ReLU": _rectified,
    "Affine": _matrix,
    "Linear": _matrix,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "Scale": _scaled,
    "AvgPool2d": _pool,
    "SumPool2d": _pool,
    "Flatten": _flattened,
}
