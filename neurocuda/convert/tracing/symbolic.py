"""Symbolic tensors (`Value`), each a concatenation of sums of nodes, and the graph under construction (`Sketch`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from neurocuda.errors import UnsupportedModuleError
from neurocuda.graph import Graph, Node, Shape
from neurocuda.graph.fields import Value as Parameter
from neurocuda.graph.model import collapse

CHANNEL_AFFINE = "ChannelAffine"
"""scale * x + shift: a node of the sketch alone, which folding replaces; not NIR."""

# Sizes that no model has by accident: a batch that is merged with another axis, or written as a number, is noticed.
STEPS, BATCH = 7907, 7919


@dataclass(frozen=True)
class Part:
    """A slice of a value along its first axis: the sum of the outputs of nodes, each of `shape`."""

    sources: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor [*lead, *shape] of the traced model.

    `parts` are concatenated along the first axis of their shapes. Their elements are those of `shape` in the same
    order, though the axes may be others: a view costs nothing until its axes are needed. `storage` is the
    same object for tensors that share memory, `view` the name for a Flatten that makes the axes true.
    """

    parts: tuple[Part, ...]
    shape: Shape
    lead: Shape
    storage: object = field(default_factory=object)
    view: str = ""

    @property
    def meta(self) -> Tensor:
        """A meta tensor of this shape, for torch's shape rules."""
        return torch.empty((*self.lead, *self.shape), device="meta", dtype=torch.float64)

    @property
    def joined(self) -> Shape:
        """The shape of the parts together."""
        first = self.parts[0].shape
        return (sum(part.shape[0] for part in self.parts), *first[1:]) if first else first


@dataclass(frozen=True)
class Call:
    """A traced call: the name for its nodes, the path of its module, and the type or function (`what`)."""

    sketch: Sketch
    name: str
    path: str
    what: str

    def refuse(self, reason: str, instead: str) -> NoReturn:
        """Raises `UnsupportedModuleError` for this call."""
        raise unsupported(self.path, self.what, reason, instead)

    def named(self, x: Value) -> Iterator[tuple[str, Part, slice]]:
        """The parts of x, each with the name of its node and its place in the first axis of x."""
        start = 0
        for number, part in enumerate(x.parts):
            place = slice(start, start + (part.shape[0] if part.shape else 1))
            start = place.stop
            yield self.name if len(x.parts) == 1 else f"{self.name}.{number}", part, place

    def true(self, x: Value) -> Value:
        """The same value, its parts reshaped to the axes that the model sees."""
        if x.joined == x.shape:
            return x
        merges = _merges(x.joined, x.shape)
        if merges is None:
            self.refuse(
                f"it takes axes {x.shape}, which are {x.joined} in the graph",
                "keep channels, rows and columns as they are, or flatten them",
            )
        parts = []
        for name, part, _ in replace(self, name=x.view or f"{self.name}.flatten").named(x):
            for start, end in merges:
                part = self.sketch.flatten(name, part, start, end)
            parts.append(part)
        return replace(x, parts=tuple(parts))

    def whole(self, x: Value) -> Value:
        """The same value as one part, with the axes that the model sees."""
        x = self.true(x)
        if len(x.parts) == 1:
            return x
        if len(x.shape) > 3:
            self.refuse(f"it takes a concatenation of shape {x.shape}", "concatenate signals of at most three axes")
        sources: list[str] = []
        for number, (_, part, place) in enumerate(self.named(x)):
            matrix = np.eye(x.shape[0])[:, place]
            sources += self.sketch.channels(f"{self.name}.place{number}", part, matrix).sources
        return replace(x, parts=(Part(tuple(sources), x.shape),))


def unsupported(path: str, what: str, reason: str, instead: str) -> UnsupportedModuleError:
    """The error for a module or function without a spiking counterpart."""
    where = f"module {path!r}" if path else "the model"
    return UnsupportedModuleError(f"{where}, {what}: {reason}; instead: {instead}")


def fresh(x: Value, parts: Iterable[Part], shape: Shape | None = None) -> Value:
    """A new tensor over the same batch as x, of this shape or that of its parts."""
    made = Value(tuple(parts), shape or (), x.lead)
    return replace(made, shape=made.joined) if shape is None else made


class Sketch:
    """A graph under construction, its nodes in topological order."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.into: dict[str, list[str]] = {}
        self._flat: dict[tuple[tuple[str, ...], int, int], Part] = {}

    def add(self, name: str, type: str, parameters: Mapping[str, Any], source: Part) -> Part:
        """A node whose input is the sum of the part's sources."""
        node = Node(self.unused(name), type, parameters, source.shape, ())
        shape = node.primitive.shape_rule(node.parameters, source.shape)
        return self.put(replace(node, output_shape=shape), source.sources)

    def put(self, node: Node, sources: Iterable[str]) -> Part:
        """Adds a node, whose name must be unused."""
        self.nodes[node.name] = node
        self.into[node.name] = list(sources)
        return Part((node.name,), node.output_shape)

    def unused(self, name: str) -> str:
        """`name`, with a number appended if it is taken, as by an earlier call of the same module."""
        number, free = 1, name
        while free in self.nodes:
            number += 1
            free = f"{name}#{number}"
        return free

    def flatten(self, name: str, part: Part, start: int, end: int) -> Part:
        """A Flatten; equal requests share one node."""
        key = (part.sources, start, end)
        if key not in self._flat:
            self._flat[key] = self.add(name, "Flatten", {"start_dim": start, "end_dim": end}, part)
        return self._flat[key]

    def channels(self, name: str, part: Part, matrix: np.ndarray) -> Part:
        """Each place's channels times a matrix [out, in]."""
        rank = len(part.shape) - 1
        if rank == 0:
            return self.add(name, "Linear", {"weight": matrix}, part)
        return self.convolution(name, part, matrix.reshape(*matrix.shape, *(1,) * rank))

    def convolution(
        self,
        name: str,
        part: Part,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        groups: int = 1,
        **fields: Shape | str,
    ) -> Part:
        """A Conv1d or Conv2d, by the axes of the weight; `fields` are its stride, padding and dilation."""
        parameters = convolution_parameters(weight, bias, groups) | fields
        return self.add(name, f"Conv{weight.ndim - 2}d", parameters, part)

    def graph(self, source: str) -> Graph:
        """The graph, without nodes that no Output depends on."""
        needed: set[str] = set()
        waiting = [name for name, node in self.nodes.items() if node.primitive.is_terminal]
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting += self.into[name]
        nodes = {name: _finished(node) for name, node in self.nodes.items() if name in needed}
        return Graph(nodes, tuple((a, b) for b in nodes for a in self.into[b]), source=source)


def convolution_parameters(weight: np.ndarray, bias: np.ndarray | None, groups: int) -> dict[str, Parameter]:
    """Those of a convolution with stride 1, without padding."""
    one = (1,) * (weight.ndim - 2)
    bias = np.zeros(weight.shape[0]) if bias is None else bias
    zero = (0,) * len(one)
    return {"weight": weight, "bias": bias, "stride": one, "padding": zero, "dilation": one, "groups": groups}


def _finished(node: Node) -> Node:
    if "scale" not in node.parameters:
        return node
    scale = collapse(node.array("scale"), len(node.input_shape))
    return replace(node, parameters={**node.parameters, "scale": scale})


def _merges(shape: Shape, target: Shape) -> list[tuple[int, int]] | None:
    """The Flattens, as (first, last) axes one after the other, that map `shape` to `target`; None if there are none."""
    groups: list[tuple[int, int]] = []
    axis = 0
    for size in target:
        if axis == len(shape):
            return None
        first, product = axis, shape[axis]
        while product < size and axis + 1 < len(shape):
            axis += 1
            product *= shape[axis]
        if product != size:
            return None
        groups.append((first, axis))
        axis += 1
    if math.prod(shape[axis:]) != 1 or not groups:
        return None
    groups[-1] = (groups[-1][0], len(shape) - 1)
    return [(first, last) for first, last in reversed(groups) if last > first]
