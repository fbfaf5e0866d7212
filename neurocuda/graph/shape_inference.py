"""Shape inference: what every node takes and gives, from the Inputs and the parameters alone."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neurocuda.errors import Problem, ShapeError
from neurocuda.graph.model import Shape, fits, shape_text
from neurocuda.graph.primitives import SIGNAL_PARAMETERS, Value

_MATRICES = frozenset({"Affine", "Linear"})
_CONVOLUTIONS = frozenset({"Conv1d", "Conv2d"})
_AXES = {
    "Conv1d": "(channels, length)",
    "Conv2d": "(channels, height, width)",
    "SumPool2d": "(channels, height, width)",
    "AvgPool2d": "(channels, height, width)",
}


@dataclass(frozen=True)
class Typed:
    """A node as inference sees it. `declared` is the shape that its fields state, if any (spatial for Conv)."""

    name: str
    type: str
    parameters: Mapping[str, Value]
    declared: Shape | None


@dataclass(frozen=True)
class Shapes:
    """Input and output shapes of the nodes for which they could be known, and what does not fit."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    problems: list[Problem]


class _Misfit(Exception):
    """A signal that a node cannot take: the field it clashes with, what was expected, what was found."""

    def __init__(self, field: str | None, expected: str, found: str) -> None:
        super().__init__(field, expected, found)
        self.field, self.expected, self.found = field, expected, found


def infer(nodes: Mapping[str, Typed], edges: list[tuple[str, str]], broken: frozenset[str]) -> Shapes:
    """Follow shapes along the edges, from the Inputs and from the weights.

    What nothing reaches takes the shape of its own parameters. Nothing is guessed as long as there are nodes
    with problems of their own (`broken`), so that one mistake is reported once.
    """
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    targets: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in sorted(edges):
        sources[target].append(source)
        targets[source].append(target)

    shapes = Shapes({}, {}, [])
    guesses: dict[str, Shape] = {}
    stuck = set(broken)
    waiting = deque(sorted(nodes))
    while waiting:
        node = nodes[waiting.popleft()]
        if node.name in shapes.inputs or node.name in stuck:
            continue
        shape = guesses.get(node.name)
        if shape is None:
            shape = _input_shape(node, sources[node.name], [nodes[name] for name in targets[node.name]], shapes)
        if shape is not None:
            shapes.inputs[node.name] = shape
            try:
                shapes.outputs[node.name] = output_shape(node, shape)
                waiting.extend(targets[node.name])
            except _Misfit as misfit:
                where = f"node {node.name!r}"
                origin = f" (from node {sources[node.name][0]!r})" if sources[node.name] else ""
                found = misfit.found + origin
                shapes.problems.append(Problem(where, misfit.field, misfit.expected, found, ShapeError))
                stuck.add(node.name)
        if not waiting and not stuck and len(shapes.inputs) < len(nodes):
            guess = _guess(nodes, shapes)
            if guess is None:
                _report_unknown(nodes, shapes)
            else:
                guesses[guess[0]] = guess[1]
                waiting.append(guess[0])
    _check_edges(nodes, edges, shapes)
    return shapes


def _input_shape(node: Typed, sources: list[str], targets: list[Typed], shapes: Shapes) -> Shape | None:
    if node.type in _MATRICES:
        return own_shape(node)
    if sources:
        return next((shapes.outputs[name] for name in sources if name in shapes.outputs), None)
    if node.type == "Input" and node.declared is None:
        return next((shape for shape in map(own_shape, targets) if shape is not None), None)
    return own_shape(node)


def own_shape(node: Typed) -> Shape | None:
    """The shape of a node's input as its own fields tell it, None where they do not."""
    weight = node.parameters.get("weight")
    if node.type in _MATRICES and isinstance(weight, np.ndarray):
        return (*weight.shape[:-2], weight.shape[-1])
    if node.type in _CONVOLUTIONS and isinstance(weight, np.ndarray) and node.declared is not None:
        groups = node.parameters["groups"]
        return (weight.shape[1] * groups, *node.declared) if isinstance(groups, int) else None
    arrays = [node.parameters[name] for name in sorted(SIGNAL_PARAMETERS & set(node.parameters))]
    if arrays:
        ranks = [array.shape for array in arrays if isinstance(array, np.ndarray)]
        longest = max(len(shape) for shape in ranks)
        padded = [shape + (1,) * (longest - len(shape)) for shape in ranks]
        return tuple(max(sizes) for sizes in zip(*padded, strict=True))
    return node.declared


def _guess(nodes: Mapping[str, Typed], shapes: Shapes) -> tuple[str, Shape] | None:
    """A shape for one node of a cycle that nothing reaches: of its own fields, convolutions before neurons."""
    for name in sorted(nodes, key=lambda name: (nodes[name].type not in _CONVOLUTIONS, name)):
        shape = own_shape(nodes[name])
        if name not in shapes.inputs and shape is not None:
            return name, shape
    return None


def _report_unknown(nodes: Mapping[str, Typed], shapes: Shapes) -> None:
    for name in sorted(set(nodes) - set(shapes.inputs)):
        expected = "a shape, from an Input that reaches it or from its own parameters"
        shapes.problems.append(Problem(f"node {name!r}", None, expected, "neither", ShapeError))


def _check_edges(nodes: Mapping[str, Typed], edges: list[tuple[str, str]], shapes: Shapes) -> None:
    for source, target in sorted(set(edges)):
        gives, takes = shapes.outputs.get(source), shapes.inputs.get(target)
        if gives is None or takes is None or gives == takes:
            continue
        expected = f"shape {takes}, which {nodes[target].type} {target!r} takes"
        found = f"shape {gives}, which {nodes[source].type} {source!r} gives"
        where = f"edge {source!r} -> {target!r}"
        shapes.problems.append(Problem(where, None, expected, found, ShapeError))


def output_shape(node: Typed, shape: Shape) -> Shape:
    """What a node gives when it takes signals of `shape`."""
    if node.type in _MATRICES:
        weight = _array(node, "weight")
        result = (*weight.shape[:-2], weight.shape[-2])
        _check_bias(node, result)
        return result
    if node.type in _AXES and len(shape) != len(_AXES[node.type].split(",")):
        raise _Misfit(None, f"an input {_AXES[node.type]}", f"shape {shape}")
    if node.type in _CONVOLUTIONS:
        return _convolution_shape(node, shape)
    if node.type in ("SumPool2d", "AvgPool2d"):
        kernel, stride, padding = (_whole(node, name) for name in ("kernel_size", "stride", "padding"))
        return (shape[0], *_windows(shape[1:], kernel, stride, padding, (1, 1), "kernel_size"))
    if node.type == "Flatten":
        return _flatten_shape(node, shape)
    for name in sorted(SIGNAL_PARAMETERS & set(node.parameters)):
        if not fits(_array(node, name), shape):
            expected = f"a shape whose axes are those of the signal {shape}, from the first, or 1"
            raise _Misfit(name, expected, f"shape {_array(node, name).shape}")
    return shape


def _convolution_shape(node: Typed, shape: Shape) -> Shape:
    weight, groups = _array(node, "weight"), node.parameters["groups"]
    assert isinstance(groups, int)
    channels = weight.shape[1] * groups
    if shape[0] != channels:
        expected = f"an input of {channels} channels (weight {weight.shape}, groups {groups})"
        raise _Misfit("weight", expected, f"shape {shape}")
    if weight.shape[0] % groups:
        raise _Misfit("groups", f"a divisor of {weight.shape[0]} output channels", str(groups))
    _check_bias(node, (weight.shape[0],))
    stride, dilation, padding = _whole(node, "stride"), _whole(node, "dilation"), node.parameters["padding"]
    if padding == "same":
        if set(stride) != {1}:
            raise _Misfit("padding", "stride 1 with 'same'", f"stride {stride}")
        return (weight.shape[0], *shape[1:])
    pads = padding if isinstance(padding, tuple) else (0,) * len(stride)
    return (weight.shape[0], *_windows(shape[1:], weight.shape[2:], stride, pads, dilation, "weight"))


def _windows(size: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, field: str) -> Shape:
    """How many windows fit along each axis, as torch counts them (floor)."""
    counts = []
    for n, k, step, pad, gap in zip(size, kernel, stride, padding, dilation, strict=True):
        room = n + 2 * pad - gap * (k - 1) - 1
        if room < 0:
            raise _Misfit(field, f"a window of at most {n + 2 * pad} elements", f"{gap * (k - 1) + 1}")
        counts.append(room // step + 1)
    return tuple(counts)


def _flatten_shape(node: Typed, shape: Shape) -> Shape:
    rank = len(shape)
    ends = []
    for name in ("start_dim", "end_dim"):
        axis = node.parameters[name]
        assert isinstance(axis, int)
        if not -max(rank, 1) <= axis < max(rank, 1):
            raise _Misfit(name, f"an axis of the signal {shape}, batch not counted", str(axis))
        ends.append(axis % max(rank, 1))
    start, end = ends
    if start > end:
        raise _Misfit("start_dim", f"an axis not after end_dim (axis {end})", f"axis {start}")
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


def _check_bias(node: Typed, shape: Shape) -> None:
    bias = node.parameters.get("bias")
    if isinstance(bias, np.ndarray) and bias.size != 1 and bias.shape != shape:
        raise _Misfit("bias", f"shape {shape} or a single value", f"shape {bias.shape}")


def _array(node: Typed, name: str) -> np.ndarray:
    value = node.parameters[name]
    assert isinstance(value, np.ndarray), (node.name, name)
    return value


def _whole(node: Typed, name: str) -> tuple[int, ...]:
    value = node.parameters[name]
    assert isinstance(value, tuple), (node.name, name)
    return value


def declared_mismatch(node: Typed, shapes: Shapes) -> str | None:
    """What to say where a node states another shape than the one that reaches it."""
    taken = shapes.inputs[node.name]
    real = taken[1:] if node.type in _CONVOLUTIONS else taken
    if node.declared is None or node.declared == real:
        return None
    stated, found = shape_text(node.declared), shape_text(real)
    return f"node {node.name!r} states the shape {stated}, but {found} reaches it; {found} is used"
