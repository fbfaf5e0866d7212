"""Primitives without a membrane potential, ordered and by the vendor library, against the oracle."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from comparison import assert_as_oracle
from devices import here, networks_on_each_device
from make_nir import Node, affine, conv1d, conv2d, delay, graph, input_, linear, numbers, scale, signal, threshold

from neurocuda.ops import int8

pytestmark = networks_on_each_device


def run(node: Node, shape: tuple[int, ...], options: dict[str, Any] | None = None, **how: Any) -> None:
    raw = graph("input>n", input=input_(*shape), n=node)
    floats = numbers(shape).normal(0, 1, (9, 2, *shape)).astype(np.float32)
    for x in (floats, signal(9, 2, *shape)):
        assert_as_oracle(raw, {"input": x}, options or {}, **how)


def on_grid(node: Node) -> Node:
    """The node with weights that are small multiples of 1/16, so that any order of its sum is exact."""
    return node | {name: np.round(node[name] * 16) / 16 for name in ("weight", "bias") if name in node}


CONVOLUTIONS = [
    {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    for kernel, stride, padding, dilation, groups in itertools.product(
        [(1, 1), (3, 3), (2, 3), (4, 2)], [1, (2, 1)], [0, (2, 1), "same", "valid"], [1, (1, 2)], [1, 2, 4]
    )
    if not (padding == "same" and stride != 1)
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: ",".join(map(str, case.values())))
def test_conv2d(case: dict[str, Any]) -> None:
    settings = {name: value for name, value in case.items() if name != "kernel"}
    node = conv2d(4, 4 // case["groups"], case["kernel"], **settings)
    run(node, (4, 6, 7))
    raw = graph("input>n", input=input_(4, 6, 7), n=on_grid(node))
    if here().type == "cpu":  # cuDNN may transform the operands: even sums on a grid are then inexact
        assert_as_oracle(raw, {"input": signal(4, 2, 4, 6, 7)}, {}, force={"n": "library"})


@pytest.mark.parametrize("kernel", [1, 2, 5])
@pytest.mark.parametrize("settings", [{}, {"stride": 2}, {"padding": 3}, {"padding": "same"}, {"dilation": 2}])
@pytest.mark.parametrize("groups", [1, 3])
def test_conv1d(kernel: int, settings: dict[str, Any], groups: int) -> None:
    node = conv1d(3, 3 // groups, kernel, groups=groups, **settings)
    run(node, (3, 11))
    raw = graph("input>n", input=input_(3, 11), n=on_grid(node))
    if here().type == "cpu":
        assert_as_oracle(raw, {"input": signal(4, 2, 3, 11)}, {}, force={"n": "library"})


def test_conv_of_a_single_bias() -> None:
    run(conv2d(3, 2, (3, 3)) | {"bias": np.float32(0.5)}, (2, 5, 5))
    run(conv2d(3, 2, (3, 3)) | {"bias": np.float32([0.5])}, (2, 5, 5))


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        ((3, 5), None),
        ((3, 5), (3,)),
        ((3, 5), (1,)),
        ((3, 5), ()),
        ((2, 3, 5), None),
        ((2, 3, 5), (2, 3)),
        ((2, 4, 3, 5), (2, 4, 3)),
        ((2, 4, 3, 5), (1, 1)),
    ],
)
def test_linear_and_affine(weight: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
    draw = numbers(weight, bias)
    node: Node = {"type": "Linear", "weight": draw.normal(0, 1, weight)}
    if bias is not None:
        node = node | {"type": "Affine", "bias": draw.normal(0, 1, bias)}
    shape = (*weight[:-2], weight[-1])
    run(node, shape)
    raw = graph("input>n", input=input_(*shape), n=on_grid(node))
    assert_as_oracle(raw, {"input": signal(4, 2, *shape)}, {}, force={"n": "library"})


@pytest.mark.parametrize("kind", ["SumPool2d", "AvgPool2d"])
@pytest.mark.parametrize("kernel", [1, 2, (3, 2), (2, 5)])
@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
@pytest.mark.parametrize("padding", [0, 1, (0, 2), (4, 3)])
def test_pools(kind: str, kernel: Any, stride: Any, padding: Any) -> None:
    run({"type": kind, "kernel_size": kernel, "stride": stride, "padding": padding}, (3, 6, 7))


@pytest.mark.parametrize("start", [0, 1, 2, -3, -1])
@pytest.mark.parametrize("end", [0, 1, 2, -1, -2])
def test_flatten(start: int, end: int) -> None:
    if start % 3 <= end % 3:
        run({"type": "Flatten", "start_dim": start, "end_dim": end}, (2, 3, 4))


@pytest.mark.parametrize("own", [(), (1,), (2,), (2, 1, 1), (1, 3), (2, 3, 4)])
def test_scale_threshold_and_delay_align_with_leading_axes(own: tuple[int, ...]) -> None:
    draw = numbers(own)
    run(scale(draw.normal(0, 1, own)), (2, 3, 4))
    for when in ("above", "reaching"):
        run(threshold(draw.choice([0.0, 1.0, 0.5], own)), (2, 3, 4), {"spike_when": when})
    for chunk in (1, 2, 32):
        run(delay() | {"delay": draw.integers(0, 12, own) * 1e-4}, (2, 3, 4), chunk=chunk)


def test_delay_rounds_half_to_even() -> None:
    for dt in (1.0, 0.5, 0.3):
        run(delay() | {"delay": np.array([0, 0.5, 1.5, 2.5, 2.4999, 3.5])}, (6,), {"dt": dt})


def test_nothing_arrives() -> None:
    """A node without incoming edges receives zero: an Affine outputs its bias, a neuron stays at rest."""
    raw = graph("input>output a>output", input=input_(3), a=affine(3, 2))
    raw["nodes"]["output"] = {"type": "Output", "shape": np.array([3])}
    assert_as_oracle(raw, {"input": signal(3, 2, 3)}, {})


def test_a_layer_above_the_limit_uses_the_vendor_library() -> None:
    raw = graph("input>n", input=input_(1100), n=on_grid(linear(1000, 1100)))
    net = assert_as_oracle(raw, {"input": signal(2, 1, 1100)}, {})
    how = {entry.node.name: entry.how for stage in net.schedule.stages for entry in stage.nodes}["n"]
    gains = int8.is_fast("cpu") or int8.is_fast("cuda")
    assert how == ("integer" if gains else "library")  # its weights are proved to be integers
