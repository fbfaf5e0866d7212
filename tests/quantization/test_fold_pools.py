"""Average pools as sums: the same values where the next weights take the division, and the same pools where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from make_nir import graph, input_, neuron, numbers, output
from oracle import run

from neurocuda.graph import Graph
from neurocuda.graph.builder import build
from neurocuda.quantization.fold_pools import with_sums

AREAS = 36
"""What all pools together divide by at most, in the weights here: multiples of it, so that all quotients are whole."""


def average(kernel: int, **changes: Any) -> dict[str, Any]:
    return {"type": "AvgPool2d", "kernel_size": kernel, "stride": kernel, "padding": 0, **changes}


def whole(*shape: int) -> np.ndarray:
    return AREAS * numbers(shape).integers(-9, 10, shape).astype(np.float32)


def conv(out: int, into: int) -> dict[str, Any]:
    plain = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    return {"type": "Conv2d", "weight": whole(out, into, 1, 1), "bias": whole(out), **plain}


FLAT = {"type": "Flatten", "start_dim": 0, "end_dim": -1}
IMAGE = {"in_": input_(2, 12, 12), "out": output(3, 4, 4)}
CASES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "a convolution reads it": (
        graph("in_>p p>c c>out", **IMAGE, p=average(3), c=conv(3, 2)),
        ["p"],
        [],
    ),
    "a matrix reads it flattened": (
        graph(
            "in_>p p>f f>w w>out",
            in_=input_(2, 6, 6),
            p=average(6),
            f=FLAT,
            w={"type": "Linear", "weight": whole(3, 2)},
            out=output(3),
        ),
        ["p"],
        [],
    ),
    "a pool and a sum behind it": (
        graph(
            "in_>p p>s s>q q>d d>c c>out",
            **{**IMAGE, "out": output(3, 1, 1)},
            p=average(3),
            s={**average(2), "type": "SumPool2d"},
            q=average(2),
            d={"type": "Delay", "delay": np.full((2, 1, 1), 1e-4)},
            c=conv(3, 2),
        ),
        ["p", "q"],
        [],
    ),
    "two pools of one size are summed": (
        graph("in_>p in_>q p>c q>c c>out", **IMAGE, p=average(3), q=average(3), c=conv(3, 2)),
        ["p", "q"],
        [],
    ),
    "a scale reads it": (
        graph(
            "in_>p p>s s>out", **{**IMAGE, "out": output(2, 4, 4)}, p=average(3), s={"type": "Scale", "scale": whole(2)}
        ),
        ["p"],
        [],
    ),
    "pools of two sizes are summed": (
        graph("in_>p in_>q p>c q>c c>out", **IMAGE, p=average(3), q=average(2, stride=3), c=conv(3, 2)),
        [],
        ["p", "q"],
    ),
    "an output reads it too": (
        graph("in_>p p>c c>out p>seen", **IMAGE, p=average(3), c=conv(3, 2), seen=output(2, 4, 4)),
        [],
        ["p"],
    ),
    "what reads it reads another signal": (
        graph("in_>p in_>m m>c p>c c>out", **IMAGE, p=average(3), m={**average(3), "type": "SumPool2d"}, c=conv(3, 2)),
        [],
        ["p"],
    ),
    "a neuron reads what a convolution gives": (
        graph(
            "in_>c c>p in_>d d>p p>n n>out",
            **IMAGE,
            c=conv(3, 2),
            d=conv(3, 2),
            p=average(3),
            n=neuron("I"),
        ),
        ["p"],
        [],
    ),
    "another node too reads what a convolution gives": (
        graph("in_>c c>p p>n n>out c>m m>out", **IMAGE, c=conv(3, 2), p=average(3), n=neuron("I"), m=average(3)),
        [],
        ["m", "p"],
    ),
    "a power of two need not go before": (
        graph("in_>c c>p p>n n>out", **{**IMAGE, "out": output(3, 6, 6)}, c=conv(3, 2), p=average(2), n=neuron("I")),
        [],
        ["p"],
    ),
    "one of two can": (
        graph(
            "in_>p p>c c>out in_>q q>n n>seen",
            **IMAGE,
            p=average(3),
            c=conv(3, 2),
            q=average(2),
            n=neuron("IF"),
            seen=output(2, 6, 6),
        ),
        ["p"],
        ["q"],
    ),
    "in a cycle with a neuron": (
        graph(
            "in_>n n>p p>c c>n n>out",
            in_=input_(2, 1, 1),
            n=neuron("IF"),
            p=average(1),
            c=conv(2, 2),
            out=output(2, 1, 1),
        ),
        ["p"],
        [],
    ),
    "in a cycle of delays": (
        graph(
            "in_>p p>d d>p d>out",
            in_=input_(2, 1, 1),
            p=average(1),
            d={"type": "Delay", "delay": np.full((2, 1, 1), 1e-4)},
            out=output(2, 1, 1),
        ),
        [],
        ["p"],
    ),
}


def raw_of(graph: Graph) -> dict[str, Any]:
    """The fields of a graph as the oracle takes them."""
    nodes: dict[str, Any] = {}
    for name, node in graph.nodes.items():
        nodes[name] = {"type": node.type, **node.parameters}
        if node.type in ("Input", "Output"):
            nodes[name]["shape"] = np.array(node.input_shape, np.int64)
    return {"type": "NIRGraph", "nodes": nodes, "edges": list(graph.edges)}


@pytest.mark.parametrize("name", CASES)
def test_pools_become_sums_of_the_same_values(name: str) -> None:
    raw, changed, kept = CASES[name]
    before, problems = build(raw, name, None)
    assert before is not None, problems
    after, notes = with_sums(before)
    pools = {n: node.type for n, node in after.nodes.items() if before.nodes[n].type == "AvgPool2d"}
    assert pools == dict.fromkeys(changed, "SumPool2d") | dict.fromkeys(kept, "AvgPool2d")
    for pool, note in zip(pools, notes, strict=True):
        assert note.startswith(f"node {pool!r}: AvgPool2d {'became' if pool in changed else 'stays'}")
    # Multiples of all areas: no mean is rounded, and both ways are exact.
    shape = before.nodes["in_"].output_shape
    x = {"in_": 36.0 * numbers(name).integers(-4, 5, (3, 2, *shape)).astype(np.float32)}
    first, second = run(raw, x, {}), run(raw_of(after), x, {})
    for output_name, values in first.outputs.items():
        assert np.array_equal(values, second.outputs[output_name])
    assert any(values.any() for values in first.outputs.values())


def test_notes_say_what_stays_and_why() -> None:
    raw = graph("in_>p p>n n>out", in_=input_(2, 6, 6), p=average(3), n=neuron("IF"), out=output(2, 2, 2))
    before, _ = build(raw, "a", None)
    assert before is not None
    assert with_sums(before)[1] == (
        "node 'p': AvgPool2d stays, as 'n' cannot take 1/9, no power of two: its mean leaves the grid",
    )
    raw["nodes"]["p"] = average(2, stride=3)
    before, _ = build(raw, "a", None)
    assert before is not None
    assert with_sums(before)[1] == ("node 'p': AvgPool2d stays, as 'n' cannot take 1/4, a power of two",)
