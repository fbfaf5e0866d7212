"""Files whose Inputs state the batch axis of the exported sample, as those of Norse 1.1.0 do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from neurocuda.graph.model import Graph, shape_text
from neurocuda.graph.shape_inference import Shapes, Typed, infer

_BATCH_AXIS = "the batch axis of the sample with which the network was exported"


def states_batch_axis(graph: Graph) -> bool:
    """Whether a batch axis was dropped when the file of this graph was read."""
    return any(_BATCH_AXIS in warning for warning in graph.warnings)


def without_batch_axis(
    nodes: Mapping[str, Typed], edges: list[tuple[str, str]], broken: frozenset[str]
) -> tuple[dict[str, Typed], Shapes, str] | None:
    """The nodes without the first axis of every Input, their shapes, and a warning; None if these do not fit either.

    The first axes of the Inputs must have one size: that of the batch. The same axis is dropped wherever another node
    states it. A graph without weights is left alone: nothing else in it tells an axis of the signal from the batch.
    """
    if not any(node.primitive.is_weighted for node in nodes.values()):
        return None
    inputs = [node for node in nodes.values() if node.type == "Input" and node.declared is not None]
    batch = {node.declared[0] if node.declared and len(node.declared) > 1 else None for node in inputs}
    if len(batch) != 1 or None in batch:
        return None
    dropped = {node.name: _drop(node) for node in inputs}
    shapes = infer({**nodes, **dropped}, edges, broken)
    if shapes.problems:
        return None
    for node in nodes.values():
        declared, real = node.declared or (), shapes.inputs.get(node.name, ())
        leading, trailing = declared[: len(declared) - len(real)], declared[len(declared) - len(real) :]
        if node.name not in dropped and leading[:1] and leading[0] in batch and trailing == real:
            dropped[node.name] = replace(node, declared=real)  # Rockpool states time too
    stated = ", ".join(f"{nodes[name].type} {name!r} ({shape_text(nodes[name].declared or ())})" for name in dropped)
    warning = (
        f"{stated}: with the stated shape, no shapes fit. Its first axis is dropped: {_BATCH_AXIS} (snnTorch, Norse, "
        "Rockpool and old sinabs write it)"
    )
    return {**nodes, **dropped}, shapes, warning


def _drop(node: Typed) -> Typed:
    return replace(node, declared=(node.declared or ())[1:])
