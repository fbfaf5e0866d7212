"""From a graph to a lowered schedule, each pass once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from neurocuda.compiler.certificate import Certificate
from neurocuda.compiler.exactness import InputGrids, Search, promised
from neurocuda.compiler.lowering import How, LoweredSchedule, lower
from neurocuda.compiler.schedule import schedule
from neurocuda.discretization.diagnostics import problems
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import raise_problems
from neurocuda.graph import Graph


@dataclass(frozen=True)
class Compiled:
    """A compiled graph: the proof of its sums, and the implementations of its nodes in the order in which they run."""

    certificate: Certificate
    schedule: LoweredSchedule


def compile_graph(
    graph: Graph,
    discretization: Discretization,
    *,
    input_grid: InputGrids | None = None,
    force: Mapping[str, How] | None = None,
    ordered: bool = False,
) -> Compiled:
    """Check the graph, prove which sums are exact, and choose how each node is computed.

    The arguments are those of `Executor`. Raises `GraphError`, `AlgebraicLoopError` or `ArgumentError`.
    """
    raise_problems(problems(graph, discretization), graph.source)
    certificate = Search(graph, discretization, promised(graph, input_grid), None).certificate()
    lowered = lower(graph, schedule(graph, discretization), certificate, force, ordered)
    return Compiled(certificate, lowered)
