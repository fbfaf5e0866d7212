"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from neurocuda.discretization.settings import PRESETS, Discretization

if TYPE_CHECKING:
    from neurocuda.discretization.metadata import Resolved
    from neurocuda.graph import Graph

File = Annotated[str, typer.Argument(metavar="FILE", help="A NIR file.")]
Dt = Annotated[
    float | None,
    typer.Option(
        "--dt", metavar="S", help="Length of a step in seconds. Default: that of the preset or file, or 1e-4."
    ),
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


def resolved(graph: Graph, dt: float | None, like: str | None) -> Resolved:
    """The settings that --dt and --like select, else those of the file."""
    from neurocuda.discretization.metadata import resolve
    from neurocuda.discretization.plausibility import likely_discretization

    if like == "auto":
        return resolve(graph, likely_discretization(graph), "auto", dt=dt)
    return resolve(graph, None if like is None else Discretization.preset(like), dt=dt)
