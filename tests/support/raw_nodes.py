"""Small raw graphs, nested dicts with the layout of a NIR file: one valid node of every kind, chains, all of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

Raw = dict[str, Any]

VECTOR, SERIES, IMAGE = (3,), (2, 6), (2, 6, 5)


def ramp(*shape: int) -> np.ndarray:
    """Values k/16, from -0.5 on, all different up to 16 of them."""
    return (np.arange(np.prod(shape)).reshape(shape) % 16 / 16 - 0.5).astype(np.float32)


_MEMBRANE = {"r": 1.0, "v_leak": 0.0}
_SPIKE = {"v_threshold": 1.0, "v_reset": 0.0}
_SYNAPSE = {"tau_syn": 0.005, "tau_mem": 0.01, "w_in": 1.0}
_WINDOW = {"kernel_size": 2, "stride": 2, "padding": 0}
_PLAIN = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}

FIELDS: dict[str, Raw] = {
    "Affine": {"weight": ramp(4, 3), "bias": ramp(4)},
    "Linear": {"weight": ramp(4, 3)},
    "Scale": {"scale": np.float32([1, 2, 3])},
    "Conv1d": {"weight": ramp(4, 2, 3), "bias": ramp(4), **_PLAIN},
    "Conv2d": {"weight": ramp(4, 2, 3, 2), "bias": ramp(4), **_PLAIN},
    "SumPool2d": _WINDOW,
    "AvgPool2d": _WINDOW,
    "Flatten": {"start_dim": 0, "end_dim": -1},
    "Delay": {"delay": np.float32([0, 1e-4, 3e-4])},
    "Threshold": {"threshold": 0.5},
    "I": {"r": 1.0},
    "IF": {"r": 1.0, **_SPIKE},
    "LI": {"tau": 0.01, **_MEMBRANE},
    "LIF": {"tau": 0.01, **_MEMBRANE, **_SPIKE},
    "CubaLI": {**_SYNAPSE, **_MEMBRANE},
    "CubaLIF": {**_SYNAPSE, **_MEMBRANE, **_SPIKE},
}
"""A valid node of every primitive that computes."""

OPTIONAL = {"v_reset", "w_in"}
"""Fields that old files lack."""

SHAPES = dict.fromkeys(FIELDS, VECTOR) | {"Conv1d": SERIES} | dict.fromkeys(("Conv2d", "SumPool2d", "AvgPool2d"), IMAGE)
"""A shape of signal that each of them takes."""

NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")


def node(kind: str, **changes: Any) -> Raw:
    """A valid node with some fields changed; None leaves a field out."""
    fields = {"type": kind, **FIELDS[kind], **changes}
    return {name: value for name, value in fields.items() if value is not None}


def terminal(kind: str, shape: tuple[int, ...]) -> Raw:
    return {"type": kind, "shape": np.array(shape, np.int64)}


def graph(nodes: dict[str, Any], edges: list[tuple[str, str]], **more: Any) -> Raw:
    return {"type": "NIRGraph", "nodes": nodes, "edges": edges, **more}


def chain(nodes: dict[str, Any], shape: tuple[int, ...] = VECTOR, **more: Any) -> Raw:
    """in -> the nodes, in order -> out."""
    names = ["in", *nodes, "out"]
    ends = {"in": terminal("Input", shape), "out": terminal("Output", shape)}
    return graph({**ends, **nodes}, list(pairwise(names)), **more)


def single(kind: str, **changes: Any) -> Raw:
    """in -> n, a node of `kind` with some fields changed -> after, an LI that takes any shape -> out."""
    return chain({"n": node(kind, **changes), "after": node("LI")}, SHAPES[kind])


def full(kind: str, shape: tuple[int, ...], **changes: Any) -> Raw:
    """A neuron, Threshold, Scale or Delay with every parameter at the full shape, no two elements equal."""
    fields = {**FIELDS[kind], **changes}
    spread = 1 + np.arange(int(np.prod(shape))).reshape(shape) / 64
    return {"type": kind, **{name: (np.max(value) * spread).astype(np.float32) for name, value in fields.items()}}


def everything() -> Raw:
    """A chain of all primitives on 2x8x6 images, parameters at full shape, as strict readers want it."""
    nodes = {
        "a_conv2d": node("Conv2d", weight=ramp(4, 2, 3, 3), padding=np.array([1, 1]), stride=np.array([1, 1])),
        "b_if": full("IF", (4, 8, 6), r=1e4, v_threshold=0.25),
        "c_sum": node("SumPool2d", **{name: np.array([value] * 2) for name, value in _WINDOW.items()}),
        "d_cubalif": full("CubaLIF", (4, 4, 3), tau_mem=2e-4, tau_syn=2e-4, v_threshold=0.5),
        "e_avg": node("AvgPool2d", **{name: np.array([value] * 2) for name, value in _WINDOW.items()}),
        "f_lif": full("LIF", (4, 2, 1), tau=2e-4, v_threshold=0.1),
        "g_flatten": node("Flatten", start_dim=1, end_dim=2, input_type=np.array([4, 2, 1])),
        "h_conv1d": node("Conv1d", weight=ramp(4, 4, 3), padding="same", input_shape=2),
        "i_i": full("I", (4, 2), r=1e4),
        "j_threshold": full("Threshold", (4, 2), threshold=0.1),
        "k_flatten": node("Flatten", input_type=np.array([4, 2])),
        "l_affine": node("Affine", weight=ramp(5, 8), bias=ramp(5)),
        "m_cubali": full("CubaLI", (5,), tau_mem=3e-4, tau_syn=2e-4, v_leak=0.5),
        "n_scale": full("Scale", (5,), scale=2.0),
        "o_delay": full("Delay", (5,), delay=2e-4),
        "p_linear": node("Linear", weight=ramp(3, 5)),
        "q_li": full("LI", (3,), tau=5e-4),
    }
    raw = chain(nodes, (2, 8, 6))
    raw["nodes"]["out"] = terminal("Output", (3,))
    return raw
