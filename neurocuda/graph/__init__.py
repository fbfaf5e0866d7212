"""The graph: flat, checked, shape-inferred, in canonical order."""

from neurocuda.graph.builder import build, from_nir
from neurocuda.graph.fields import Shape
from neurocuda.graph.model import Graph, Node, align, expand, parameters_text, shape_text, table
from neurocuda.graph.patterns import SoftReset, soft_resets
from neurocuda.graph.primitives import PRIMITIVES, Primitive, complete

__all__ = [
    "PRIMITIVES",
    "Graph",
    "Node",
    "Primitive",
    "Shape",
    "SoftReset",
    "align",
    "build",
    "complete",
    "expand",
    "from_nir",
    "parameters_text",
    "shape_text",
    "soft_resets",
    "table",
]
