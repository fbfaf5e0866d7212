"""Short constructors of raw graphs for tables of cases: nodes as dicts, edges as one line of text."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

Node = dict[str, Any]
DT = 1e-4


def graph(edges: str, **nodes: Node) -> Node:
    """`edges`: "a>b b>c"; names of nodes may hold dots, written '__' as a keyword."""
    named = {name.replace("__", "."): node for name, node in nodes.items()}
    return {"type": "NIRGraph", "nodes": named, "edges": [tuple(edge.split(">")) for edge in edges.split()]}


def numbers(*key: object) -> np.random.Generator:
    """A generator that depends on the key alone."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def signal(steps: int, batch: int, *shape: int, density: float = 0.4) -> np.ndarray:
    """Spikes [T, B, *shape]."""
    return (numbers(steps, batch, shape).random((steps, batch, *shape)) < density).astype(np.float32)


def input_(*shape: int) -> Node:
    return {"type": "Input", "shape": np.array(shape, np.int64)}


def output(*shape: int) -> Node:
    return {"type": "Output", "shape": np.array(shape, np.int64)}


def linear(out: int, into: int, key: object = 0) -> Node:
    return {"type": "Linear", "weight": numbers("linear", out, into, key).normal(0.3, 1, (out, into)).astype("f4")}


def affine(out: int, into: int, key: object = 0) -> Node:
    bias = numbers("bias", out, key).normal(0.2, 0.5, out).astype("f4")
    return {**linear(out, into, key), "type": "Affine", "bias": bias}


def conv2d(out: int, into: int, kernel: tuple[int, int], **settings: Any) -> Node:
    weight = numbers("conv", out, into, kernel).normal(0.1, 1, (out, into, *kernel)).astype("f4")
    bias = numbers("conv bias", out).normal(0, 0.5, out).astype("f4")
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    return {"type": "Conv2d", "weight": weight, "bias": bias, **defaults, **settings}


def conv1d(out: int, into: int, kernel: int, **settings: Any) -> Node:
    planar = conv2d(out, into, (kernel, 1))
    return {**planar, "type": "Conv1d", "weight": planar["weight"][..., 0], **settings}


def scale(value: Any) -> Node:
    return {"type": "Scale", "scale": np.asarray(value, np.float32)}


def threshold(value: Any) -> Node:
    return {"type": "Threshold", "threshold": np.asarray(value, np.float32)}


def delay(*steps: float) -> Node:
    """A delay in steps of the default dt, one for each element."""
    return {"type": "Delay", "delay": np.array(steps) * DT}


def neuron(kind: str, *shape: int, key: object = 0, **changes: Any) -> Node:
    """A neuron with a value of its own for each element, which fires every few steps for inputs around one."""
    draw = numbers(kind, shape, key)
    fields: Node = {"r": draw.uniform(2, 4, shape)}
    if kind in ("I", "IF"):
        fields["r"] = draw.uniform(0.4, 0.7, shape) / DT
    elif kind in ("LI", "LIF"):
        fields["tau"] = draw.uniform(2.5, 5, shape) * DT
    else:
        fields |= {"tau_mem": draw.uniform(2.5, 5, shape) * DT, "tau_syn": draw.uniform(1.5, 3, shape) * DT}
        fields["w_in"] = draw.uniform(1, 2, shape)
    if kind not in ("I", "IF"):
        fields["v_leak"] = draw.normal(0, 0.1, shape)
    if kind in ("IF", "LIF", "CubaLIF"):
        fields |= {"v_threshold": draw.uniform(0.8, 1.2, shape), "v_reset": draw.normal(-0.1, 0.1, shape)}
    return {"type": kind, **fields, **changes}
