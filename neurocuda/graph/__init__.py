"""The graph: flat, checked, shape-inferred, in canonical order."""

from neurocuda.graph.builder import build, from_nir
from neurocuda.graph.model import (
    NEURONS,
    SPIKE_PRODUCING,
    SPIKING,
    WEIGHTED,
    Graph,
    Node,
    Shape,
    align,
    expand,
    parameters_text,
    shape_text,
)
from neurocuda.graph.patterns import SoftReset, soft_resets

__all__ = [
    "NEURONS",
    "SPIKE_PRODUCING",
    "SPIKING",
    "WEIGHTED",
    "Graph",
    "Node",
    "Shape",
    "SoftReset",
    "align",
    "build",
    "expand",
    "from_nir",
    "parameters_text",
    "shape_text",
    "soft_resets",
]
