"""`neurocuda info` and `neurocuda check`: what a NIR file holds, and what is wrong with it."""

from __future__ import annotations

import json
import platform
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

from neurocuda.cli.console import count, messages, show, show_table, show_warnings
from neurocuda.cli.options import Dt, File, Like, Ordered, resolved
from neurocuda.errors import ArgumentError, FileError, GraphError, Problem

if TYPE_CHECKING:
    from neurocuda.discretization.settings import Discretization
    from neurocuda.graph import Graph

MaybeFile = Annotated[str | None, typer.Argument(metavar="[FILE]", help="A NIR file.")]
System = Annotated[bool, typer.Option("--system", help="Show versions, threads, GPUs and backends.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def info(
    file: MaybeFile = None, dt: Dt = None, like: Like = None, ordered: Ordered = False, system: System = False
) -> None:
    """Show nodes, schedule, delayed edges and warnings."""
    with messages():
        if system:
            _show_system()
        if file is not None:
            _show_graph(file, dt, like, ordered)
        elif not system:
            raise ArgumentError("info: expected a FILE or --system, found neither")


def _show_graph(file: str, dt: float | None, like: str | None, ordered: bool) -> None:
    from neurocuda.compiler.pipeline import compile_graph
    from neurocuda.discretization.exporters import likely_exporter
    from neurocuda.discretization.plausibility import doubts
    from neurocuda.graph import parameters_text, shape_text
    from neurocuda.graph.added_terminals import explained
    from neurocuda.graph.serialization import read

    graph = read(file)
    settings = resolved(graph, dt, like)
    d = settings.discretization
    show(f"{file}: {count(len(graph.nodes), 'node')}, {count(len(graph.edges), 'edge')}")
    show(f"NIR version: {graph.version or 'not stated'}")
    show(f"Likely exporter: {likely_exporter(graph) or 'unknown'}")
    values = ", ".join(f"{field.name}={getattr(d, field.name)}" for field in fields(d))
    show(f"Discretization ({settings.origin}): {values}")
    nodes = [
        (name, node.type, shape_text(node.input_shape), shape_text(node.output_shape), parameters_text(node))
        for name, node in graph.nodes.items()
    ]
    show_table("Nodes", ("node", "type", "input", "output", "parameters"), nodes)
    lowered = compile_graph(graph, d, ordered=ordered).schedule
    header, *rows = lowered.rows()
    show_table("Schedule", header, rows)
    delayed = [f"{edge.source} -> {edge.target}" for edge in lowered.schedule.delayed]
    show(f"\nDelayed edges: {', '.join(delayed) or 'none'}")
    for line in [*explained(graph.inputs, graph.edges), *explained(graph.outputs, graph.edges)]:
        show(f"note: {line}")
    show_warnings([*graph.warnings, *doubts(graph, d)])


def _show_system() -> None:
    import torch

    from neurocuda.ops.backends import backends
    from neurocuda.version import __version__

    show(f"neurocuda {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    show(f"{platform.machine()}, {count(torch.get_num_threads(), 'thread')}")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        version = ".".join(map(str, torch.cuda.get_device_capability(index)))
        show(f"GPU {index}: {torch.cuda.get_device_name(index)}, compute capability {version}")
    for name, state in backends().items():
        show(f"backend {name}: {state}")


def check(file: File, dt: Dt = None, like: Like = None, as_json: Json = False) -> None:
    """Name every problem of a graph.

    Exit code 0: no problem; 1: problems; 2: not a readable NIR file.
    """
    from neurocuda.discretization.plausibility import doubts
    from neurocuda.graph.serialization import check as check_file

    with messages():
        try:
            graph, found = check_file(file)
        except FileError as error:
            if not as_json:
                raise
            unreadable = {"where": file, "field": None, "expected": "a NIR file", "found": str(error)}
            _show_json(file, [{**unreadable, "kind": "FileError"}], [])
            raise typer.Exit(2) from error
        warnings: list[str] = []
        if graph is not None:
            try:
                d = resolved(graph, dt, like).discretization
            except GraphError as error:
                found = error.problems
            else:
                found = _obstacles(graph, d)
                warnings = [*graph.warnings, *doubts(graph, d)]
    if as_json:
        _show_json(file, [_as_dict(problem) for problem in found], warnings)
    else:
        for problem in found:
            show(f"problem: {problem}")
        show_warnings(warnings)
        show(f"{file}: {count(len(found), 'problem')}, {count(len(warnings), 'warning')}")
    raise typer.Exit(1 if found else 0)


def _obstacles(graph: Graph, d: Discretization) -> tuple[Problem, ...]:
    """The problems that keep a well-formed graph from running with `d`: coefficients, delays, cycles without state."""
    from neurocuda.compiler.schedule import schedule
    from neurocuda.discretization.diagnostics import problems

    found = problems(graph, d)
    try:
        schedule(graph, d)
    except GraphError as error:
        found += error.problems
    return found


def _as_dict(problem: Problem) -> dict[str, str | None]:
    stated = {name: getattr(problem, name) for name in ("where", "field", "expected", "found")}
    return {**stated, "kind": problem.error.__name__}


def _show_json(file: str, problems: list[dict[str, str | None]], warnings: list[str]) -> None:
    content = {"file": file, "ok": not problems, "problems": problems, "warnings": warnings}
    typer.echo(json.dumps(content, indent=2))
