"""Arguments and options that several commands share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurocuda.discretization.settings import PRESETS, Discretization

if TYPE_CHECKING:
    from neurocuda.graph import Graph

File = Annotated[str, typer.Argument(metavar="FILE", help="A NIR file.")]
Dt = Annotated[
    float | None,
    typer.Option("--dt", metavar="S", help="Length of a step in seconds. Default: 1e-4, or that of the preset."),
]
Like = Annotated[
    str | None,
    typer.Option(
        "--like",
        metavar="PRESET",
        help=f"Use the settings of a simulator: {', '.join(PRESETS)}, or auto: of the likely exporter.",
    ),
]
Ordered = Annotated[bool, typer.Option("--ordered", help="Sum every layer in the defined order, however large.")]


def discretization(dt: float | None, like: str | None, graph: Graph | None) -> Discretization:
    """The settings that --dt and --like select; graph: the one that --like auto reads, None where it has problems."""
    changes: dict[str, Any] = {} if dt is None else {"dt": dt}
    if like == "auto":
        from neurocuda.discretization.plausibility import likely_discretization

        return replace(Discretization() if graph is None else likely_discretization(graph), **changes)
    return Discretization(**changes) if like is None else Discretization.preset(like, **changes)
