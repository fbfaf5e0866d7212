"""Networks of rectifiers by hand, as the tracer gives them, and what they compute, in numpy and float64."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from neurocuda.graph import Graph, Node
from neurocuda.graph.builder import build


def network(nodes: Mapping[str, Mapping[str, Any]], edges: str) -> Graph:
    """A graph from the fields of its nodes and its edges, written 'input conv relu output, input relu'."""
    raw = {name: dict(fields) for name, fields in nodes.items()}
    caps = {name: fields.pop("cap", None) for name, fields in raw.items() if fields["type"] == "ReLU"}
    for name in caps:  # shapes are inferred as of another node that keeps them
        raw[name] = {"type": "Threshold", "threshold": np.array(0.0)}
    pairs = [pair for path in edges.split(", ") for pair in zip(path.split(), path.split()[1:], strict=False)]
    graph, problems = build({"nodes": raw, "edges": pairs, "metadata": {}}, "by hand", None)
    assert graph is not None, problems
    found = dict(graph.nodes)
    for name, cap in caps.items():
        shape = found[name].output_shape
        parameters = {} if cap is None else {"cap": np.array(float(cap))}
        found[name] = Node(name, "ReLU", parameters, shape, shape)
    return Graph(found, graph.edges, source="by hand")


def values(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    """The value of every node for frames x [B, *shape], float64."""
    done: dict[str, np.ndarray] = {}
    waiting = list(graph.nodes)
    while waiting:
        name = waiting.pop(0)
        sources = [a for a, b in graph.edges if b == name]
        if not all(source in done for source in sources):
            waiting.append(name)
            continue
        node = graph.nodes[name]
        total = x if node.type == "Input" else sum(done[source] for source in sources)
        done[name] = _value(node, np.asarray(total, np.float64))
    return done


def _value(node: Node, x: np.ndarray) -> np.ndarray:
    if node.type == "ReLU":
        cap = node.parameters.get("cap")
        return np.clip(x, 0, None if cap is None else float(cap))
    if node.type in ("Input", "Output"):
        return x
    if node.type == "Flatten":
        return x.reshape(len(x), *node.output_shape)
    if node.type == "Scale":
        scale = node.array("scale")
        return x * scale.reshape(scale.shape + (1,) * (x.ndim - 1 - scale.ndim))
    if node.type in ("Affine", "Linear"):
        y = np.einsum("...oi,b...i->b...o", node.array("weight"), x)
        return y + node.parameters.get("bias", 0.0)
    tensor = torch.from_numpy(x)
    if node.type in ("AvgPool2d", "SumPool2d"):
        options = [node.numbers(field) for field in ("kernel_size", "stride", "padding")]
        pooled = functional.avg_pool2d(tensor, *options)
        area = np.prod(node.numbers("kernel_size")) if node.type == "SumPool2d" else 1
        return pooled.numpy() * area
    convolve = functional.conv1d if node.type == "Conv1d" else functional.conv2d
    weight, bias = (torch.from_numpy(node.array(field).astype(np.float64)) for field in ("weight", "bias"))
    options = [node.numbers("stride"), node.parameters["padding"], node.numbers("dilation"), node.number("groups")]
    return convolve(tensor, weight, bias.expand(len(weight)), *options).numpy()
