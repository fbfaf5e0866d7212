"""`Graph` and `Node`: a NIR graph that is flat, checked, shape-inferred, in canonical order, and immutable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from neurocuda.graph.fields import Shape, Value, parameter
from neurocuda.graph.primitives import PRIMITIVES, SIGNAL_PARAMETERS, TRACED, Primitive


@dataclass(frozen=True, eq=False)
class Node:
    """One node of a flat graph. Shapes are those of one sample at one time step.

    Args:
        name: The flat name, unique in the graph: `outer.inner` for a node of a nested graph.
        type: The NIR primitive; `primitive` is its record.
        parameters: Its fields, in the dtypes of the file. Those that belong to elements of the signal (tau, threshold,
            ...) are collapsed: an axis along which they are constant has size 1, trailing axes of size 1 are left out.
        input_shape: Of the sum of its inputs.
        output_shape: Of its output.
        metadata: Of the file.

    Example:
        >>> import neurocuda
        >>> neurocuda.read("examples/digits/digits.nir").nodes["lif1"].output_shape
        (16, 8, 8)
    """

    name: str
    type: str
    parameters: Mapping[str, Value]
    input_shape: Shape
    output_shape: Shape
    metadata: Mapping[str, Any] = field(default_factory=dict)
    primitive: Primitive = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "primitive", PRIMITIVES.get(self.type) or TRACED[self.type])
        # NumPy's arithmetic on arrays without axes returns scalars, which are no arrays.
        parameters = {k: np.asarray(v) if isinstance(v, np.generic) else v for k, v in self.parameters.items()}
        for value in parameters.values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
        object.__setattr__(self, "parameters", MappingProxyType(parameters))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.name, self.type, dict(self.parameters), self.input_shape, self.output_shape)
        return Node, (*parts, dict(self.metadata))

    def array(self, name: str) -> np.ndarray:
        """A parameter that is an array.

        Args:
            name: The field, such as "weight" or "tau".

        Returns:
            The read-only array, in the dtype of the file.
        """
        return parameter(self.parameters, name, np.ndarray)

    def numbers(self, name: str) -> tuple[int, ...]:
        """A parameter that is a tuple of integers.

        Args:
            name: The field, such as "stride".

        Returns:
            One integer for each spatial axis.
        """
        return parameter(self.parameters, name, tuple)

    @property
    def groups(self) -> int | None:
        """The groups of a convolution, None for another node."""
        return self.number("groups") if "groups" in self.parameters else None

    @property
    def bias_shape(self) -> Shape:
        """The shape of a layer's bias: one value for each channel of a convolution, for each output of a matrix."""
        return self.output_shape[:1] if self.primitive.is_convolution else self.output_shape

    @property
    def shape_fields(self) -> dict[str, Any]:
        """The input shape by the field of a NIR file that states it; {} where this type of node states none."""
        if self.primitive.shape_field is None:
            return {}
        shape = self.input_shape[1:] if self.primitive.is_convolution else self.input_shape
        return {self.primitive.shape_field: np.array(shape[0] if self.primitive.spatial_axes == 1 else shape, np.int64)}

    def number(self, name: str) -> int:
        """A parameter that is an integer.

        Args:
            name: The field, such as "groups".

        Returns:
            The integer.
        """
        return parameter(self.parameters, name, int)


@dataclass(frozen=True, eq=False)
class Graph:
    """A NIR graph: flat, checked, with inferred shapes, independent of the order in the file.

    Args:
        nodes: By name, sorted by Unicode code points.
        edges: Pairs (source, target), sorted. A duplicate counts twice.
        metadata: Of the file.
        warnings: Statements of the file that were overruled.
        source: The file.
        version: Of NIR, as the file states it.

    Example:
        >>> import neurocuda
        >>> graph = neurocuda.read("examples/digits/digits.nir")
        >>> graph.inputs, len(graph.nodes)
        (('input',), 14)
    """

    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    source: str = "graph"
    version: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", MappingProxyType({n: self.nodes[n] for n in sorted(self.nodes)}))
        object.__setattr__(self, "edges", tuple(sorted(self.edges)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (dict(self.nodes), self.edges, dict(self.metadata), self.warnings, self.source, self.version)
        return Graph, parts

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the top-level Input nodes."""
        return tuple(name for name, node in self.nodes.items() if node.type == "Input")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the top-level Output nodes."""
        return tuple(name for name, node in self.nodes.items() if node.type == "Output")

    @cached_property
    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """For each node, the sources of the edges into it, ascending."""
        return neighbours(self.nodes, ((b, a) for a, b in self.edges))

    @cached_property
    def targets(self) -> Mapping[str, tuple[str, ...]]:
        """For each node, the targets of the edges out of it, ascending."""
        return neighbours(self.nodes, self.edges)

    def __str__(self) -> str:
        rows = [("node", "type", "input", "output", "parameters")]
        for node in self.nodes.values():
            shapes = (shape_text(node.input_shape), shape_text(node.output_shape))
            rows.append((node.name, node.type, *shapes, parameters_text(node)))
        lines = [f"Graph of {self.source}: {len(self.nodes)} nodes, {len(self.edges)} edges"]
        lines += [f"  {line}" for line in table(rows)]
        lines.append("  edges: " + ", ".join(f"{a} -> {b}" for a, b in self.edges))
        return "\n".join(lines)


def neighbours(nodes: Iterable[str], pairs: Iterable[tuple[str, str]]) -> Mapping[str, tuple[str, ...]]:
    """For each node, the second of each pair that it is the first of, in order."""
    found: dict[str, list[str]] = {name: [] for name in nodes}
    for name, other in pairs:
        found[name].append(other)
    return {name: tuple(others) for name, others in found.items()}


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines of text, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def shape_text(shape: Shape) -> str:
    """A shape in text: 2x34x34, or 'scalar'."""
    return "x".join(str(size) for size in shape) or "scalar"


def parameters_text(node: Node) -> str:
    """The parameters of a node in one short line."""
    parts = []
    for name, value in node.parameters.items():
        if not isinstance(value, np.ndarray):
            parts.append(f"{name}={'x'.join(map(str, value)) if isinstance(value, tuple) else value}")
        elif value.size == 1:
            parts.append(f"{name}={value.reshape(-1)[0]:.6g}")
        else:
            parts.append(f"{name}[{shape_text(value.shape)}] {value.min():.4g}..{value.max():.4g}")
    return ", ".join(parts)


def align(array: np.ndarray, rank: int) -> np.ndarray:
    """A parameter with its axes on the leading axes of a signal of `rank` axes; size 1 is a scalar."""
    if array.size == 1:
        return array.reshape((1,) * rank)
    return array.reshape(array.shape + (1,) * (rank - array.ndim))


def collapse(array: np.ndarray, rank: int) -> np.ndarray:
    """The same parameter with constant axes of size 1 and no trailing axes of size 1."""
    array = align(array, rank)
    for axis in range(array.ndim):
        first = array.take([0], axis=axis)
        if (array == first).all():
            array = first
    shape = array.shape
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return array.reshape(shape).copy()


def expand(node: Node, name: str) -> np.ndarray:
    """A parameter at the full shape of the node's signal, as the nir package requires it in a file."""
    array = node.array(name)
    if name not in SIGNAL_PARAMETERS:
        return array
    return np.broadcast_to(align(array, len(node.input_shape)), node.input_shape).copy()
