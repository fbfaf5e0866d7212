"""Builds a `Graph` from the fields of a file or a `nir.NIRGraph`: flattens, checks every field, infers every shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nir
import numpy as np

from neurocuda.errors import ArgumentError, Problem, raise_problems
from neurocuda.graph.batch_axis import without_batch_axis
from neurocuda.graph.fields import Shape, Unfit, Value, declared_shape
from neurocuda.graph.flatten import FlatNode, Raw, inline
from neurocuda.graph.model import Graph, Node, collapse
from neurocuda.graph.primitives import PRIMITIVES, SIGNAL_PARAMETERS, check_fields
from neurocuda.graph.shape_inference import Shapes, Typed, declared_mismatch, infer


def from_nir(graph: nir.NIRGraph) -> Graph:
    """The `Graph` of a `nir.NIRGraph` in memory.

    Args:
        graph: A graph of the nir package or of an exporter; it may be nested.

    Returns:
        The graph: flat, with inferred shapes.

    Raises:
        ArgumentError: The argument is no nir.NIRGraph.
        GraphError: The graph has problems (`ShapeError` if they are of shapes); each names its node and field.

    Example:
        >>> import neurocuda, nir, numpy as np
        >>> nodes = {"x": nir.Input(np.array([2])), "y": nir.Output(np.array([2]))}
        >>> neurocuda.from_nir(nir.NIRGraph(nodes, [("x", "y")])).nodes["y"].input_shape
        (2,)
    """
    if not isinstance(graph, nir.NIRGraph):
        raise ArgumentError(f"graph: expected a nir.NIRGraph, found {type(graph).__name__}")
    built, problems = build(graph.to_dict(), "graph", nir.version)
    raise_problems(problems, "graph")
    assert built is not None
    return built


def build(raw: Raw, source: str, version: str | None) -> tuple[Graph | None, tuple[Problem, ...]]:
    """The graph of `raw`, the fields of a NIRGraph in a file, or None and all its problems."""
    flat = inline(raw)
    problems = list(flat.problems)
    typed: dict[str, Typed] = {}
    broken = set(flat.severed)
    for name, node in sorted(flat.nodes.items()):
        parameters, declared, wrong = _check_node(node)
        typed[name] = Typed(name, node.type, parameters, declared)
        problems.extend(wrong)
        if wrong:
            broken.add(name)
    shapes = infer(typed, flat.edges, frozenset(broken))
    warnings: list[str] = []
    if shapes.problems:
        exported = without_batch_axis(typed, flat.edges, frozenset(broken))
        if exported is not None:
            typed, shapes, warning = exported
            warnings.append(warning)
    problems.extend(shapes.problems)
    if problems:
        return None, tuple(problems)
    nodes = {name: _node(typed[name], shapes, flat.nodes[name].fields) for name in typed}
    warnings.extend(text for text in (declared_mismatch(node, shapes) for node in typed.values()) if text)
    graph = Graph(nodes, tuple(flat.edges), _metadata(raw), tuple(warnings), source, version)
    return graph, ()


def _check_node(node: FlatNode) -> tuple[dict[str, Value], Shape | None, list[Problem]]:
    primitive = PRIMITIVES[node.type]
    parameters, problems = check_fields(node.name, node.type, node.fields)
    stated = None if primitive.shape_field is None else node.fields.get(primitive.shape_field)
    try:
        declared = None if stated is None else declared_shape(stated)
        if stated is None and primitive.shape_field == "shape" and not node.invented:
            raise Unfit("a shape (every Input and Output states one)", "none")
    except Unfit as unfit:
        declared = None
        problems.append(Problem(f"node {node.name!r}", primitive.shape_field, unfit.expected, unfit.found))
    return parameters, declared, problems


def _node(node: Typed, shapes: Shapes, fields: Raw) -> Node:
    shape = shapes.inputs[node.name]
    parameters = {
        name: collapse(value, len(shape)) if name in SIGNAL_PARAMETERS and isinstance(value, np.ndarray) else value
        for name, value in node.parameters.items()
    }
    return Node(node.name, node.type, parameters, shape, shapes.outputs[node.name], _metadata(fields))


def _metadata(fields: Raw) -> Mapping[str, Any]:
    metadata = fields.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}
