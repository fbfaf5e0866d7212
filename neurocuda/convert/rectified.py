"""A traced network of rectifiers, run as it is: the reference for what its spiking twin approximates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import networkx
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neurocuda.errors import ArgumentError, nearest
from neurocuda.graph import Graph, Node, align


def evaluate(
    graph: Graph, x: Tensor, record: Iterable[str] = (), dtype: torch.dtype = torch.float32
) -> tuple[Tensor, dict[str, Tensor]]:
    """The output [B, *shape] of a network of ReLU nodes for frames x [B, *shape], and what the nodes in `record` gave.

    Plain torch in `dtype`, on the device of x. Raises `ArgumentError` for other shapes, unknown names, neurons, and
    where the graph has not one Output (`evaluate_all` has them all).
    """
    if len(graph.outputs) != 1:
        raise ArgumentError(f"graph: expected one Output, found {len(graph.outputs)}: {', '.join(graph.outputs)}")
    outputs, recorded = evaluate_all(graph, x, record, dtype)
    return outputs[graph.outputs[0]], recorded


def evaluate_all(
    graph: Graph, x: Tensor, record: Iterable[str] = (), dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """As `evaluate`, with the outputs by the names of their nodes."""
    wanted = set(record)
    for name in sorted(wanted - set(graph.nodes)):
        raise ArgumentError(f"record: expected names of nodes, found {name!r}; {nearest(name, graph.nodes)}")
    (entry,) = graph.inputs
    shape = graph.nodes[entry].output_shape
    if tuple(x.shape[1:]) != shape:
        raise ArgumentError(f"x: expected frames [B, *{shape}], found shape {tuple(x.shape)}")
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    uses = dict.fromkeys(graph.nodes, 0)
    for source, target in graph.edges:
        sources[target].append(source)
        uses[source] += 1
    signals: dict[str, Tensor] = {}
    recorded: dict[str, Tensor] = {}
    for name in order(graph):
        node = graph.nodes[name]
        if name == entry:
            signals[name] = x.to(dtype)
        else:
            total = signals[sources[name][0]]
            for source in sources[name][1:]:
                total = total + signals[source]
            signals[name] = compute(node, total)
        if name in wanted:
            recorded[name] = signals[name]
        for source in sources[name]:
            uses[source] -= 1
            if not uses[source]:
                del signals[source]  # memory
        if not uses[name] and node.type != "Output":
            del signals[name]
    return {name: signals[name] for name in graph.outputs}, recorded


def rectifiers(graph: Graph) -> tuple[str, ...]:
    """The names of the ReLU nodes, from the input on."""
    return tuple(name for name in order(graph) if graph.nodes[name].type == "ReLU")


def order(graph: Graph) -> list[str]:
    """The names of the nodes, each after what feeds it; by name where that leaves a choice."""
    digraph = networkx.DiGraph(list(graph.edges))
    digraph.add_nodes_from(graph.nodes)
    return list(networkx.lexicographical_topological_sort(digraph))


def compute(node: Node, x: Tensor) -> Tensor:
    """What one node of a network of rectifiers gives for its sum x [B, *shape]."""
    if node.type not in _COMPUTE:
        raise ArgumentError(f"node {node.name!r}: expected a network of rectifiers, found {node.type}")
    return _COMPUTE[node.type](node, x)


def _tensor(array: np.ndarray, x: Tensor) -> Tensor:
    return torch.tensor(array, dtype=x.dtype, device=x.device)


def _relu(node: Node, x: Tensor) -> Tensor:
    cap = node.parameters.get("cap")
    return x.clamp(0, float(cap)) if isinstance(cap, np.ndarray) else x.clamp(min=0)


def _scale(node: Node, x: Tensor) -> Tensor:
    return x * _tensor(align(node.array("scale"), len(node.input_shape)), x)


def _matrix(node: Node, x: Tensor) -> Tensor:
    weight = _tensor(node.array("weight"), x)
    y = functional.linear(x, weight) if weight.dim() == 2 else torch.matmul(weight, x.unsqueeze(-1)).squeeze(-1)
    return y + _tensor(node.array("bias"), x) if node.type == "Affine" else y


def _convolution(node: Node, x: Tensor) -> Tensor:
    apply: Callable[..., Tensor] = functional.conv1d if node.type == "Conv1d" else functional.conv2d
    padding = node.parameters["padding"]
    bias = _tensor(np.broadcast_to(node.array("bias").reshape(-1), node.output_shape[:1]), x)
    stride, dilation = node.numbers("stride"), node.numbers("dilation")
    return apply(x, _tensor(node.array("weight"), x), bias, stride, padding, dilation, node.number("groups"))


def _pool(node: Node, x: Tensor) -> Tensor:
    kernel, stride, padding = (node.numbers(field) for field in ("kernel_size", "stride", "padding"))
    # padded by hand: torch refuses more than half a window
    padded = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    divisor = 1 if node.type == "SumPool2d" else kernel[0] * kernel[1]
    return functional.avg_pool2d(padded, kernel, stride, divisor_override=divisor)


def _flatten(node: Node, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], *node.output_shape)


_COMPUTE: Mapping[str, Callable[[Node, Tensor], Tensor]] = {
    "Output": lambda node, x: x,
    "ReLU": _relu,
    "Scale": _scale,
    "Affine": _matrix,
    "Linear": _matrix,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "SumPool2d": _pool,
    "AvgPool2d": _pool,
    "Flatten": _flatten,
}
