"""Shape inference: the input and output shape of every node, from the Inputs and the parameters alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from neurocuda.errors import Problem, ShapeError
from neurocuda.graph.fields import Shape, Value, parameter
from neurocuda.graph.model import neighbours, shape_text
from neurocuda.graph.primitives import PRIMITIVES, SIGNAL_PARAMETERS, Primitive
from neurocuda.graph.shape_rules import Misfit


@dataclass(frozen=True)
class Typed:
    """A node before its shapes are known. `declared` is the shape in its fields, if any (spatial axes for Conv)."""

    name: str
    type: str
    parameters: Mapping[str, Value]
    declared: Shape | None

    @property
    def primitive(self) -> Primitive:
        return PRIMITIVES[self.type]


@dataclass(frozen=True)
class Shapes:
    """The input and output shapes that could be inferred, and what does not fit."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    problems: list[Problem]


def infer(nodes: Mapping[str, Typed], edges: list[tuple[str, str]], broken: frozenset[str]) -> Shapes:
    """Propagates shapes along the edges, from the Inputs and from the weights.

    A node that no shape reaches has the shape of its own parameters. While nodes have problems of their own
    (`broken`), no shape is guessed: one mistake is reported once.
    """
    sources = neighbours(nodes, ((target, source) for source, target in sorted(edges)))
    targets = neighbours(nodes, sorted(edges))
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
                shapes.outputs[node.name] = node.primitive.shape_rule(node.parameters, shape)
                waiting.extend(targets[node.name])
            except Misfit as misfit:
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


def _input_shape(node: Typed, sources: Sequence[str], targets: list[Typed], shapes: Shapes) -> Shape | None:
    if node.primitive.is_matrix:
        return own_shape(node)
    if sources:
        return next((shapes.outputs[name] for name in sources if name in shapes.outputs), None)
    if node.type == "Input" and node.declared is None:
        return next((shape for shape in map(own_shape, targets) if shape is not None), None)
    return own_shape(node)


def own_shape(node: Typed) -> Shape | None:
    """The input shape that a node's own fields determine, None where they do not."""
    weight = node.parameters.get("weight")
    if node.primitive.is_matrix and isinstance(weight, np.ndarray):
        return (*weight.shape[:-2], weight.shape[-1])
    if node.primitive.is_convolution and isinstance(weight, np.ndarray) and node.declared is not None:
        return weight.shape[1] * parameter(node.parameters, "groups", int), *node.declared
    names = SIGNAL_PARAMETERS & set(node.parameters)
    shapes = [parameter(node.parameters, name, np.ndarray).shape for name in names]
    # Parameters align with the leading axes of the signal.
    return tuple(map(max, zip_longest(*shapes, fillvalue=1))) if shapes else node.declared


def _guess(nodes: Mapping[str, Typed], shapes: Shapes) -> tuple[str, Shape] | None:
    """The shape of one node of a cycle that no shape reaches, from its own fields, convolutions before neurons."""
    for name in sorted(nodes, key=lambda name: (not nodes[name].primitive.is_convolution, name)):
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
        output, input_ = shapes.outputs.get(source), shapes.inputs.get(target)
        if output is not None and input_ is not None and output != input_:
            expected = f"shape {input_}, the input of {nodes[target].type} {target!r}"
            found = f"shape {output}, the output of {nodes[source].type} {source!r}{_transposed(nodes[target], output)}"
            shapes.problems.append(Problem(f"edge {source!r} -> {target!r}", None, expected, found, ShapeError))


def _transposed(node: Typed, shape: Shape) -> str:
    """A hint for a weight (in, out) where NIR has (out, in): its transpose takes an input of this shape."""
    if not node.primitive.is_matrix:
        return ""
    weight = parameter(node.parameters, "weight", np.ndarray)
    return f"; the weight {weight.shape} is transposed?" if (*weight.shape[:-2], weight.shape[-2]) == shape else ""


def declared_mismatch(node: Typed, shapes: Shapes) -> str | None:
    """The warning for a node that states another shape than the inferred one."""
    taken = shapes.inputs[node.name]
    real = taken[1:] if node.primitive.is_convolution else taken
    if node.declared is None or node.declared == real:
        return None
    stated, found = shape_text(node.declared), shape_text(real)
    return f"node {node.name!r} states the shape {stated}, but {found} reaches it; {found} is used"
