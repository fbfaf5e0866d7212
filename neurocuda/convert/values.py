"""What a tensor of a traced model is in the graph, and the graph while it is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from neurocuda.convert.editing import fresh
from neurocuda.errors import ArgumentError, UnsupportedModuleError
from neurocuda.graph import Node, Shape
from neurocuda.graph.fields import Value
from neurocuda.graph.shapes import Typed, output_shape

CONVOLUTIONS = ("", "Conv1d", "Conv2d")
"""By the number of axes of space."""


@dataclass(frozen=True)
class Part:
    """Some neighbouring channels of a signal: the sum of what these nodes give.

    `positive`: no element is ever below 0; `spikes`: each is 0 or 1.
    """

    sources: tuple[str, ...]
    shape: Shape
    positive: bool = False
    spikes: bool = False


@dataclass(frozen=True)
class Signal:
    """A tensor of the model that depends on its input: parts one after the other along the axis of channels.

    `lead` is how many axes stand before those of a sample: 1 for [B, *shape], 2 for [T, B, *shape].
    """

    parts: tuple[Part, ...]
    lead: int

    @property
    def shape(self) -> Shape:
        """The shape of one sample at one step."""
        first = self.parts[0].shape
        return (sum(part.shape[0] for part in self.parts), *first[1:]) if first else first

    @property
    def positive(self) -> bool:
        """Whether no element is ever below 0."""
        return all(part.positive for part in self.parts)

    @property
    def spikes(self) -> bool:
        """Whether every element is 0 or 1."""
        return all(part.spikes for part in self.parts)


class Builder:
    """The nodes and edges of a graph that grows."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self.nodes: dict[str, Node] = {}
        self._reserved = frozenset(reserved)
        self.edges: list[tuple[str, str]] = []

    def add(
        self, name: str, kind: str, parameters: Mapping[str, Value], sources: Sequence[str], shape: Shape
    ) -> tuple[str, Shape]:
        """Add a node that takes signals of `shape`; its name, with a number if it was taken, and what it gives."""
        name = fresh(name, {*self.nodes, *(() if kind in ("Input", "Output") else self._reserved)})
        for field, value in parameters.items():
            if isinstance(value, np.ndarray) and not np.isfinite(value).all():
                raise ArgumentError(f"module {name!r}, {field}: expected finite numbers, found NaN or infinite ones")
        given = output_shape(Typed(name, kind, parameters, None), shape)
        self.nodes[name] = Node(name, kind, parameters, shape, given)
        self.edges.extend((source, name) for source in sources)
        return name, given

    def reshape(self, name: str, shape: Shape) -> None:
        """Say what a node gives that is not of NIR."""
        self.nodes[name] = replace(self.nodes[name], output_shape=shape)


@dataclass(frozen=True)
class Call:
    """One call in the model: what its nodes are named, where it stands, and the shape of what it returned."""

    builder: Builder
    name: str
    path: str
    title: str
    function: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    leads: tuple[tuple[int, ...], ...]
    last: bool

    def sizes(self, lead: int) -> tuple[int, ...]:
        """The sizes of the axes before those of a sample."""
        return next(sizes for sizes in self.leads if len(sizes) == lead)

    def lead(self) -> int:
        """How many axes of what the call returned stand before those of a sample."""
        for sizes in self.leads:
            if self.shape[: len(sizes)] == sizes:
                return len(sizes)
        raise self.refuse("the axis of the batch (for neurons: of time and batch) left as it is", f"shape {self.shape}")

    def refuse(self, expected: str, found: str | None = None) -> UnsupportedModuleError:
        """The error for a call that the graph cannot hold."""
        where = f"module {self.path!r}" if self.path else "model"
        tail = self.title if found is None else f"{found} ({self.title})"
        return UnsupportedModuleError(f"{where}: expected {expected}, found {tail}", self.path)

    def add(self, kind: str, parameters: Mapping[str, Value], part: Part, suffix: str = "") -> tuple[str, Shape]:
        """Add a node of this call that takes a part."""
        return self.builder.add(self.name + suffix, kind, parameters, part.sources, part.shape)

    def each(self, x: Signal, kind: str, parameters: Mapping[str, Value]) -> Signal:
        """The same node for every part, one that gives nothing below 0 where it takes nothing below 0."""
        parts = []
        for suffix, part in numbered(x):
            name, given = self.add(kind, parameters, part, suffix)
            positive = part.positive or kind == "ReLU"
            spikes = kind == "Threshold" or (kind == "Flatten" and part.spikes and len(part.sources) == 1)
            parts.append(Part((name,), given, positive or spikes, spikes))
        return Signal(tuple(parts), x.lead)


def numbered(x: Signal) -> list[tuple[str, Part]]:
    """The parts, with what their names end in."""
    if len(x.parts) == 1:
        return [("", x.parts[0])]
    return [(f".{number}", part) for number, part in enumerate(x.parts)]


def whole(call: Call, x: Signal) -> Signal:
    """The same signal as a single part: convolutions put the channels of each part in their place."""
    if len(x.parts) == 1:
        return x
    channels, space = x.shape[0], len(x.shape) - 1
    if space >= len(CONVOLUTIONS):
        raise call.refuse("signals of channels and at most two axes of space", f"a sample of shape {x.shape}")
    sources, first = [], 0
    for number, part in enumerate(x.parts):
        size = part.shape[0]
        weight = np.zeros((channels, size, *[1] * space))
        weight[first : first + size] = np.eye(size).reshape(size, size, *[1] * space)
        kind, parameters = weighted(weight, None, space)
        name, _ = call.add(kind, parameters, part, f".place{number}")
        sources.append(name)
        first += size
    return Signal((Part(tuple(sources), x.shape, x.positive),), x.lead)


def weighted(
    weight: np.ndarray,
    bias: np.ndarray | None,
    space: int,
    *,
    stride: Sequence[int] | None = None,
    padding: Sequence[int] | str | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> tuple[str, dict[str, Value]]:
    """The type and the parameters of a layer of weights over so many axes of space; none: a matrix."""
    weight = np.ascontiguousarray(weight)
    if space == 0:
        return ("Linear", {"weight": weight}) if bias is None else ("Affine", {"weight": weight, "bias": bias})
    parameters: dict[str, Value] = {
        "weight": weight,
        "bias": np.zeros(weight.shape[0]) if bias is None else bias,
        "stride": tuple(stride or (1,) * space),
        "padding": padding if isinstance(padding, str) else tuple(padding or (0,) * space),
        "dilation": tuple(dilation or (1,) * space),
        "groups": groups,
    }
    return CONVOLUTIONS[space], parameters
