"""Evaluates a traced network of ReLU nodes on frames, in plain torch: for calibration and tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neurocuda.compiler.schedule import in_order
from neurocuda.errors import ArgumentError
from neurocuda.graph import PRIMITIVES, Graph, Node, align, complete
from neurocuda.graph.primitives import TRACED
from neurocuda.ops import pointwise

Operands = Mapping[str, Tensor]
"""The weight, bias or scale of a node."""

Rule = Callable[[Node, Tensor, Operands], Tensor]
"""Computes the output [B, *shape] of a node from its input sum [B, *shape] and its operands."""

OPERANDS = ("weight", "bias", "scale")


def rectifiers(graph: Graph) -> tuple[str, ...]:
    """The names of the ReLU nodes, in the order in which signals reach them."""
    return tuple(name for name in in_order(graph.nodes, graph.edges) if graph.nodes[name].primitive.is_rectifier)


def walk(graph: Graph) -> Iterator[tuple[Node, tuple[str, ...], list[str]]]:
    """The nodes in order, each with its sources and those of them that no later node reads."""
    order = in_order(graph.nodes, graph.edges)
    last = {source: name for name in order for source in graph.sources[name]}
    for name in order:
        sources = graph.sources[name]
        yield graph.nodes[name], sources, [source for source in dict.fromkeys(sources) if last[source] == name]


def evaluate(
    graph: Graph, x: Tensor, record: Collection[str] = (), dtype: torch.dtype = torch.float32
) -> tuple[Any, dict[str, Tensor]]:
    """The outputs of a graph from `trace` for frames x [B, *shape], in plain torch, and those of some of its nodes.

    Weights are rounded to `dtype`, in which all is computed, on the device of x. The first result is a tensor
    [B, *shape] where the graph has one Output, otherwise a dict by name; the second has the outputs of the
    nodes in `record`. Raises `ArgumentError` for an x or a name that does not fit, and for nodes with
    a state.
    """
    missing = sorted(set(record) - set(graph.nodes))
    if missing:
        raise ArgumentError(f"record: expected names of nodes, found {missing[0]!r}")
    check_samples("x", x, graph)
    signals: dict[str, Tensor] = {}
    for node, sources, spent in walk(graph):
        if node.name in graph.inputs:
            signals[node.name] = x.to(dtype)
            continue
        signals[node.name] = compute(node, sum_of([signals[source] for source in sources], node, x, dtype))
        for source in set(spent) - set(record):
            del signals[source]
    outputs = {name: signals[name] for name in graph.outputs}
    recorded = {name: signals[name] for name in record}
    return (outputs[graph.outputs[0]] if len(outputs) == 1 else outputs), recorded


def check_samples(where: str, x: object, graph: Graph) -> None:
    """Raises `ArgumentError` if x is no tensor [B, *shape] for the input of a graph."""
    shape = graph.nodes[graph.inputs[0]].output_shape
    if not isinstance(x, Tensor) or x.ndim == 0 or tuple(x.shape[1:]) != shape:
        found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ArgumentError(f"{where}: expected samples [B, {', '.join(map(str, shape))}], found {found}")


def sum_of(branches: list[Tensor], node: Node, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of the edges into a node, [B, *shape]; zero where there are none, for as many samples as x has."""
    if not branches:
        return torch.zeros((x.shape[0], *node.input_shape), dtype=dtype, device=x.device)
    return reduce(add, branches)


def compute(node: Node, x: Tensor, operands: Operands | None = None) -> Tensor:
    """The output of one node of a network of ReLU nodes for its input sum x [B, *shape].

    operands: the node's own where None, in the dtype of x. Raises `ArgumentError` for other types of nodes.
    """
    rule = EVALUATE[node.type]
    if rule is None:
        raise ArgumentError(f"graph, node {node.name!r}: expected {', '.join(SUPPORTED)}, found {node.type}")
    if operands is None:
        fields = [field for field in OPERANDS if field in node.parameters]
        operands = {field: torch.tensor(operand(node, field), dtype=x.dtype, device=x.device) for field in fields}
    return rule(node, x, operands)


def operand(node: Node, field: str) -> np.ndarray:
    """A weight, bias or scale; a scale aligned with the signal."""
    return align(node.array(field), len(node.input_shape)) if field == "scale" else node.array(field)


def _same(node: Node, x: Tensor, operands: Operands) -> Tensor:
    return x


def cap(node: Node) -> float | None:
    """The upper bound of a ReLU, None without one."""
    return float(node.array("cap")) if "cap" in node.parameters else None


def rectified(node: Node, x: Tensor, operands: Operands) -> Tensor:
    return x.clamp(0, cap(node))


def _matrix(node: Node, x: Tensor, operands: Operands) -> Tensor:
    weight, bias = operands["weight"], operands.get("bias")
    if weight.dim() == 2:
        return functional.linear(x, weight, bias if bias is None else bias.expand(weight.shape[0]))
    y = torch.matmul(weight, x.unsqueeze(-1)).squeeze(-1)
    return y if bias is None else y + bias


def _convolution(node: Node, x: Tensor, operands: Operands) -> Tensor:
    weight, bias = operands["weight"], operands.get("bias")
    padding = node.parameters["padding"]
    where = padding if isinstance(padding, str) else node.numbers("padding")
    stride, dilation, groups = node.numbers("stride"), node.numbers("dilation"), node.number("groups")
    bias = bias if bias is None else bias.expand(weight.shape[0])
    return pointwise.convolve(x, weight, bias, stride, where, dilation, groups)


def _scaled(node: Node, x: Tensor, operands: Operands) -> Tensor:
    return x * operands["scale"]


def _pool(node: Node, x: Tensor, operands: Operands) -> Tensor:
    kernel, stride, (rows, columns) = (node.numbers(field) for field in ("kernel_size", "stride", "padding"))
    divisor = kernel[0] * kernel[1] if node.primitive.averages else 1
    padded = functional.pad(x, (columns, columns, rows, rows)) if rows or columns else x  # more than torch's half
    return functional.avg_pool2d(padded, kernel, stride, divisor_override=divisor)


def _flattened(node: Node, x: Tensor, operands: Operands) -> Tensor:
    return x.reshape(x.shape[0], *node.output_shape)


EVALUATE: Mapping[str, Rule | None] = complete(
    {
        "Output": _same,
        "ReLU": rectified,
        "Affine": _matrix,
        "Linear": _matrix,
        "Conv1d": _convolution,
        "Conv2d": _convolution,
        "Scale": _scaled,
        "AvgPool2d": _pool,
        "SumPool2d": _pool,
        "Flatten": _flattened,
        "Input": None,  # the frames
        # None of these is in a network of ReLU nodes.
        **dict.fromkeys(("Identity", "Delay", "Threshold", "ChannelAffine")),
        **dict.fromkeys(("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")),
    },
    "neurocuda/convert/relu_network.py, EVALUATE",
    {**PRIMITIVES, **TRACED},
)

SUPPORTED = {name: PRIMITIVES.get(name) or TRACED[name] for name, rule in EVALUATE.items() if rule is not None}
"""The primitives of a network of ReLU nodes except Input."""
