"""Malformed graphs, each with one mistake, and the words that its message owes."""

from __future__ import annotations

from typing import Any

import numpy as np
from raw_nodes import IMAGE, SERIES, VECTOR, Raw, chain, graph, node, ramp, single, terminal

NAN, INF = float("nan"), float("inf")


def lif_chain(**changes: Any) -> Raw:
    """in -> n, a LIF -> after, an LI -> out, with fields of the graph changed."""
    return {**chain({"n": node("LIF"), "after": node("LI")}), **changes}


def replaced(name: str, value: Any) -> Raw:
    raw = lif_chain()
    raw["nodes"][name] = value
    return raw


def with_edge(source: str, target: str) -> Raw:
    raw = lif_chain()
    return {**raw, "edges": [*raw["edges"], (source, target)]}


def input_shape(shape: Any) -> Raw:
    return replaced("in", {"type": "Input", "shape": np.array(shape)})


def nested(inner: Raw, edges: tuple[tuple[str, str], ...] = (("in", "net"), ("net", "out"))) -> Raw:
    ends = {"in": terminal("Input", VECTOR), "out": terminal("Output", VECTOR)}
    return graph({**ends, "net": inner}, list(edges))


def with_ends(inputs: int, outputs: int) -> Raw:
    """A LIF between so many Inputs and Outputs."""
    sources, targets = [f"i{k}" for k in range(inputs)], [f"o{k}" for k in range(outputs)]
    ends = {name: terminal("Input", VECTOR) for name in sources} | {n: terminal("Output", VECTOR) for n in targets}
    return graph({"lif": node("LIF"), **ends}, [(n, "lif") for n in sources] + [("lif", n) for n in targets])


def nested_times(levels: int) -> Raw:
    raw = lif_chain()
    for _ in range(levels):
        raw = nested(raw)
    return raw


def joined(a: Raw, b: Raw) -> Raw:
    """in -> a and b -> sum, an LI -> out."""
    edges = [("in", "a"), ("in", "b"), ("a", "sum"), ("b", "sum"), ("sum", "out")]
    return {**chain({"a": a, "b": b, "sum": node("LI")}), "edges": edges}


def ring(kind: str, **ends: Raw) -> Raw:
    """Two nodes in a cycle, and an Input or an Output."""
    edges = [("a", "b"), ("b", "a")]
    edges += [("in", "a") if name == "in" else ("b", name) for name in ends]
    return graph({"a": node(kind), "b": node(kind), **ends}, edges)


def clashing() -> Raw:
    """A node with the name that a nested node has when it is flat."""
    raw = nested(lif_chain(), (("in", "net"), ("net", "net.n"), ("net.n", "out")))
    raw["nodes"]["net.n"] = node("IF")
    return raw


def linear(out: int, size: int) -> Raw:
    return node("Linear", weight=ramp(out, size))


INPUT, OUTPUT = terminal("Input", VECTOR), terminal("Output", VECTOR)
DANGLING, UNCONNECTED = with_edge("n", "aftre"), lif_chain(edges=None)
NO_OUTPUT = graph({"i": INPUT, "n": node("LIF")}, [("i", "n"), ("n", "n")])
LONE_TENSOR = np.full((4, 2, 1, 1), INF)

# name: (graph, words of the message, parted by '|')
STRUCTURE: dict[str, tuple[Raw, str]] = {
    "type unknown": (replaced("n", node("LIF", type="LIFF")), "'n'|'type'|a NIR primitive|CubaLIF|'LIFF'"),
    "type of ours": (replaced("n", {"type": "Identity"}), "'n'|'type'|a NIR primitive|'Identity'"),
    "type missing": (replaced("n", node("LIF", type=None)), "'n'|'type'|a group with a field 'type'"),
    "type of an Input missing": (replaced("in", {"shape": np.array([3])}), "'in'|a group with a field 'type'"),
    "type a number": (replaced("n", node("LIF", type=3)), "'n'|'type'|a NIR primitive|3"),
    "type an array": (replaced("n", node("LIF", type=np.array([b"LIF"]))), "'n'|'type'|a NIR primitive|array"),
    "node a dataset": (replaced("n", 5.0), "'n'|a group with a field 'type'|5.0"),
    "nodes missing": (lif_chain(nodes=None), "the graph|'nodes'|a group of nodes|none"),
    "nodes a dataset": (lif_chain(nodes=7), "the graph|'nodes'|a group of nodes|7"),
    "nodes missing, nested": (nested(lif_chain(nodes=None)), "graph 'net'|'nodes'|a group of nodes|none"),
    "edges missing": (lif_chain(edges=None), "the graph|'edges'|pairs of names|none"),
    "edges missing, nested": (nested(UNCONNECTED), "graph 'net'|'edges'|pairs of names|none"),
    "edge from nowhere": (with_edge("iin", "n"), "'iin' -> 'n'|source 'iin'|nearest name is 'in'"),
    "edge to nowhere": (with_edge("n", "uot"), "'n' -> 'uot'|target 'uot'|nearest name is 'out'"),
    "edge to nowhere, nested": (nested(DANGLING), "'n' -> 'aftre' in graph 'net'|nearest name is 'after'"),
    "edge into a graph": (nested(lif_chain(), (("in", "net"), ("net.aftr", "out"))), "'net.aftr'|nearest|after'"),
    "edge into an Input": (with_edge("n", "in"), "'n' -> 'in'|no edge into an Input"),
    "two Inputs": (nested(with_ends(2, 1)), "'in' -> 'net'|exactly one Input|'net.i0', 'net.i1'"),
    "two Outputs": (nested(with_ends(1, 2)), "'net' -> 'out'|exactly one Output|'net.o0', 'net.o1'"),
    "no Output, nested": (nested(NO_OUTPUT), "'net' -> 'out'|exactly one Output|none"),
    "no Input": (ring("LIF", out=OUTPUT), "an Input node|neither"),
    "no Output": (ring("LIF", **{"in": INPUT}), "an Output node|neither"),
    "names clash": (clashing(), "'net.n'|one node of this flat name|two"),
    "too deep": (nested_times(66), "net.net|at most 64 graphs"),
    "Input without shape": (replaced("in", {"type": "Input"}), "'in'|'shape'|a shape|none"),
    "Output without shape": (replaced("out", {"type": "Output"}), "'out'|'shape'|a shape|none"),
    "Input shape 0": (input_shape([3, 0]), "'in'|'shape'|integers >= 1|[3, 0]"),
    "Input shape negative": (input_shape([-3]), "'in'|'shape'|integers >= 1|-3"),
    "Input shape half": (input_shape([1.5]), "'in'|'shape'|integers >= 1|1.5"),
    "Input shape infinite": (input_shape([INF]), "'in'|'shape'|integers >= 1|inf"),
    "Input shape a table": (input_shape([[1, 2]]), "'in'|'shape'|[[1, 2]]"),
    "Input shape a word": (replaced("in", {"type": "Input", "shape": "wide"}), "'in'|'shape'|'wide'"),
}

FIELD_VALUES: dict[str, tuple[Raw, str]] = {
    "weight 1-D": (single("Linear", weight=ramp(3)), "'n'|'weight'|(..., out, in)|shape (3,)"),
    "weight 0-D": (single("Affine", weight=1.0), "'n'|'weight'|(..., out, in)|shape ()"),
    "Conv1d 4-D": (single("Conv1d", weight=ramp(4, 2, 3, 1)), "'weight'|(C_out, C_in / groups, K)|(4, 2, 3, 1)"),
    "Conv2d 3-D": (single("Conv2d", weight=ramp(4, 2, 3)), "'weight'|(C_out, C_in / groups, K_y, K_x)|(4, 2, 3)"),
    "weight NaN": (single("Linear", weight=np.array([[0, 0], [0, NAN]])), "'weight'|finite|nan|(1, 1)"),
    "weight inf": (single("Conv2d", weight=LONE_TENSOR), "'n'|'weight'|finite|inf|(0, 0, 0, 0)"),
    "bias inf": (single("Affine", bias=np.array([0, -INF, 0, 0])), "'n'|'bias'|finite|-inf|(1,)"),
    "tau NaN": (single("LIF", tau=NAN), "'n'|'tau'|finite|nan"),
    "r inf": (single("IF", r=np.array([1, 1, INF])), "'n'|'r'|finite|inf|(2,)"),
    "v_threshold -inf": (single("CubaLIF", v_threshold=-INF), "'n'|'v_threshold'|finite numbers or inf|-inf"),
    "v_threshold NaN": (single("LIF", v_threshold=NAN), "'n'|'v_threshold'|finite numbers or inf|nan"),
    "tau -inf": (single("LI", tau=-INF), "'n'|'tau'|finite numbers or inf|-inf"),
    "v_reset NaN": (single("IF", v_reset=NAN), "'n'|'v_reset'|finite|nan"),
    "v_leak inf": (single("LI", v_leak=-INF), "'n'|'v_leak'|finite|-inf"),
    "w_in NaN": (single("CubaLI", w_in=NAN), "'n'|'w_in'|finite|nan"),
    "threshold NaN": (single("Threshold", threshold=NAN), "'n'|'threshold'|finite|nan"),
    "scale inf": (single("Scale", scale=INF), "'n'|'scale'|finite|inf"),
    "delay NaN": (single("Delay", delay=NAN), "'n'|'delay'|finite|nan"),
    "delay inf": (single("Delay", delay=INF), "'n'|'delay'|finite|inf"),
    "delay negative": (single("Delay", delay=np.array([0, -1e-3, 0])), "'n'|'delay'|>= 0|-0.001|(1,)"),
    "tau zero": (single("LI", tau=0.0), "'n'|'tau'|values > 0|0.0"),
    "tau negative": (single("LIF", tau=np.array([1, -2, 1])), "'n'|'tau'|values > 0|-2|(1,)"),
    "tau_syn zero": (single("CubaLI", tau_syn=0.0), "'n'|'tau_syn'|values > 0|0.0"),
    "tau_mem negative": (single("CubaLIF", tau_mem=-0.5), "'n'|'tau_mem'|values > 0|-0.5"),
    "r complex": (single("I", r=1 + 2j), "'n'|'r'|real numbers|(1+2j)"),
    "tau a string": (single("LIF", tau="fast"), "'n'|'tau'|real numbers|'fast'"),
    "tau a group": (single("LI", tau={"value": 1.0}), "'n'|'tau'|real numbers|a group"),
    "tau empty": (single("LIF", tau=np.zeros(0)), "'n'|'tau'|at least one value|(0,)"),
    "weight empty": (single("Linear", weight=np.zeros((0, 3))), "'n'|'weight'|at least one value|(0, 3)"),
    "axis half": (single("Flatten", start_dim=0.5), "'n'|'start_dim'|an integer|0.5"),
    "axis infinite": (single("Flatten", end_dim=INF), "'n'|'end_dim'|an integer|inf"),
    "stride 0": (single("Conv2d", stride=0), "'n'|'stride'|1 or 2 integers >= 1|0"),
    "stride of three": (single("Conv2d", stride=np.array([1, 1, 1])), "'stride'|1 or 2 integers|[1, 1, 1]"),
    "stride of two": (single("Conv1d", stride=np.array([1, 2])), "'stride'|an integer >= 1|[1, 2]"),
    "stride infinite": (single("AvgPool2d", stride=INF), "'n'|'stride'|integers|inf"),
    "kernel_size NaN": (single("SumPool2d", kernel_size=NAN), "'n'|'kernel_size'|integers|nan"),
    "kernel_size 0": (single("AvgPool2d", kernel_size=0), "'n'|'kernel_size'|integers >= 1|0"),
    "dilation negative": (single("Conv1d", dilation=-1), "'n'|'dilation'|an integer >= 1|-1"),
    "padding unknown": (single("Conv2d", padding="full"), "'n'|'padding'|'same', 'valid'|'full'"),
    "padding negative": (single("Conv1d", padding=-2), "'n'|'padding'|an integer >= 0|-2"),
    "padding a word": (single("SumPool2d", padding="same"), "'n'|'padding'|integers >= 0|'same'"),
    "groups 0": (single("Conv2d", groups=0), "'n'|'groups'|an integer >= 1|0"),
    "groups half": (single("Conv1d", groups=1.5), "'n'|'groups'|an integer >= 1|1.5"),
    "field unknown": (single("LIF", tua=0.01), "'n'|'tua'|only the fields of LIF|unknown field"),
    "field of another": (single("Linear", bias=ramp(4)), "'n'|'bias'|only the fields of Linear (weight)"),
}

SHAPES: dict[str, tuple[Raw, str]] = {
    "edge": (chain({"n": linear(2, 4), "end": node("LI")}), "'in' -> 'n'|(4,)|Linear 'n'|(3,)|Input 'in'"),
    "branches": (joined(linear(2, 3), linear(4, 3)), "'b' -> 'sum'|(2,)|LI 'sum'|(4,)|Linear 'b'"),
    "more axes": (single("LIF", tau=np.full((3, 2), 0.01)), "'n'|'tau'|(3,)|(3, 2)|'in'"),
    "too long": (single("CubaLIF", w_in=np.ones(4)), "'n'|'w_in'|signal (3,)|shape (4,)"),
    "enlarging": (chain({"n": node("LI", tau=np.ones(3))}, (1,)), "'n'|'tau'|(1,)|(3,)|'in'"),
    "trailing axis": (chain({"n": node("IF", r=np.ones(5))}, IMAGE), "'n'|'r'|(2, 6, 5)|(5,)"),
    "trailing axes": (chain({"n": node("Scale", scale=np.ones((6, 5)))}, IMAGE), "'scale'|(2, 6, 5)|(6, 5)"),
    "trailing delay": (chain({"n": node("Delay", delay=np.ones(6))}, SERIES), "'delay'|(2, 6)|(6,)"),
    "trailing level": (chain({"n": node("Threshold", threshold=np.ones(6))}, SERIES), "'threshold'|(2, 6)|(6,)"),
    "bias, Affine": (single("Affine", bias=ramp(3)), "'n'|'bias'|shape (4,)|shape (3,)"),
    "bias of two axes, Affine": (single("Affine", bias=ramp(1, 4)), "'n'|'bias'|shape (4,)|shape (1, 4)"),
    "bias, Conv2d": (single("Conv2d", bias=ramp(2)), "'n'|'bias'|shape (4,)|shape (2,)"),
    "bias of two axes, Conv1d": (single("Conv1d", bias=ramp(4, 1)), "'n'|'bias'|shape (4,)|shape (4, 1)"),
    "groups": (single("Conv2d", weight=ramp(3, 1, 3, 2), bias=ramp(3), groups=2), "'groups'|a divisor of 3|2"),
    "channels": (single("Conv1d", weight=ramp(4, 3, 3)), "'n'|'weight'|3 channels|(2, 6)|'in'"),
    "channels of groups": (single("Conv2d", groups=2), "'n'|4 channels|groups 2|(2, 6, 5)"),
    "kernel, Conv2d": (single("Conv2d", weight=ramp(4, 2, 3, 6)), "'n'|'weight'|at most 5|6"),
    "kernel, Conv1d": (single("Conv1d", dilation=3), "'n'|'weight'|at most 6|7"),
    "kernel, pool": (single("SumPool2d", kernel_size=np.array([1, 8]), padding=1), "'kernel_size'|at most 7|8"),
    "pool of a vector": (chain({"n": node("AvgPool2d")}), "'n'|(channels, height, width)|shape (3,)|'in'"),
    "Conv2d of a series": (chain({"n": node("Conv2d")}, SERIES), "(channels, height, width)|shape (2, 6)"),
    "Conv1d of an image": (chain({"n": node("Conv1d")}, IMAGE), "'n'|(channels, length)|shape (2, 6, 5)"),
    "start_dim": (single("Flatten", start_dim=1), "'n'|'start_dim'|an axis of the signal (3,)|1"),
    "end_dim": (chain({"n": node("Flatten", end_dim=-4)}, IMAGE), "'end_dim'|(2, 6, 5)|-4"),
    "reversed": (chain({"n": node("Flatten", start_dim=2, end_dim=1)}, IMAGE), "'start_dim'|end_dim|axis 2"),
    "'same' with a stride": (single("Conv1d", stride=2, padding="same"), "'padding'|stride 1|'same'|(2,)"),
}

RINGED = ring("Scale", **{"in": INPUT, "out": OUTPUT})
LOOPS: dict[str, tuple[Raw, str]] = {
    "of two": (RINGED, "'a' (Scale), 'b' (Scale)|a neuron, or a delay of at least one step"),
    "of one": (
        graph({**RINGED["nodes"]}, [("in", "a"), ("a", "b"), ("b", "b"), ("b", "out")]),
        "nodes 'b' (Scale)|each",
    ),
}
