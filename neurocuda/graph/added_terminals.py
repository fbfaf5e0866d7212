"""Explains Inputs and Outputs that were added to nodes without edges, recognized by their names.

nir 1.0.8 (`NIRGraph.infer_types`) adds an Output `output_<node>` after each node without outgoing edges, and an Input
`input_<node>` before each node without incoming edges. `flatten` does the same where a graph has no Input or no Output.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence


def explained(terminals: Sequence[str], edges: Collection[tuple[str, str]]) -> list[str]:
    """A line for each of several Inputs or Outputs of a graph that seems to be added. `edges`: of the same graph."""
    lines = []
    for terminal in terminals if len(terminals) > 1 else ():
        word, direction = ("Output", "outgoing") if terminal.startswith("output_") else ("Input", "incoming")
        node = _owner(terminal, word, edges)
        if node is not None:
            lines.append(
                f"{word} {terminal!r} was added to node {node!r}, which has no other {direction} edge: the nir package "
                f"adds an {word} to such a node"
            )
    return lines


def _owner(terminal: str, word: str, edges: Collection[tuple[str, str]]) -> str | None:
    """The node that a terminal was added to: its only edge must be that node's only one on this side."""
    own, other = (1, 0) if word == "Output" else (0, 1)
    nodes = [edge[other] for edge in edges if edge[own] == terminal]
    if len(nodes) != 1 or sum(edge[other] == nodes[0] for edge in edges) != 1:
        return None
    parts = nodes[0].split(".")  # the flat name of a node of a nested graph, which the terminal was added to
    names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    added = (re.fullmatch(re.escape(f"{word.lower()}_{name}") + r"(_\d+)*", terminal) for name in names)
    return nodes[0] if any(added) else None
