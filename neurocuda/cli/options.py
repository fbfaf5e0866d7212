"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from neurocuda.discretization.settings import PRESETS, Discretization

File = Annotated[str, typer.Argument(metavar="FILE", help="A NIR file.")]
Dt = Annotated[
    float | None,
    typer.Option("--dt", metavar="S", help="Length of a step in seconds. Default: 1e-4, or that of the preset."),
]
Like = Annotated[
    str | None,
    typer.Option("--like", metavar="PRESET", help=f"Use the settings of a simulator: {', '.join(PRESETS)}."),
]
Ordered = Annotated[bool, typer.Option("--ordered", help="Sum every layer in the defined order, however large.")]


def discretization(dt: float | None, like: str | None) -> Discretization:
    """The settings that --dt and --like select."""
    changes: dict[str, Any] = {} if dt is None else {"dt": dt}
    return Discretization(**changes) if like is None else Discretization.preset(like, **changes)
