"""Lines and tables on stdout and stderr. Tables fit the terminal; in a pipe nothing is wrapped or cut."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from neurocuda.errors import GraphError, NeuroCUDAError

_UNLIMITED = 1_000_000


def escape_unprintable() -> None:
    """Print characters that the encoding of stdout or stderr lacks as escapes; do not raise UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(text: str, *, err: bool = False) -> None:
    """Print lines of text, to stderr if `err`."""
    typer.echo(_escaped(text), err=err)


def show_warnings(warnings: Sequence[str], *, err: bool = False) -> None:
    """Print a line for each warning, to stderr if `err`."""
    for warning in warnings:
        show(f"warning: {warning}", err=err)


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table under its title. On a terminal, long cells are folded."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    terminal = console.is_terminal
    if not terminal:
        console = Console(highlight=False, width=_UNLIMITED)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_escaped(cell)) for cell in row))
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    typer.echo("\n".join(["", title, *(line if terminal else line.rstrip() for line in lines)]))


@contextmanager
def messages() -> Iterator[None]:
    """Turn a NeuroCUDAError into a message and an exit code: 1 for a GraphError, 2 for all others."""
    try:
        yield
    except NeuroCUDAError as error:
        show(f"error: {error}", err=True)
        raise typer.Exit(1 if isinstance(error, GraphError) else 2) from error


def count(number: int, noun: str) -> str:
    """A number with its noun: "no edges", "1 edge", "2 edges"."""
    return f"{number} {noun}" if number == 1 else f"{number or 'no'} {noun}s"


def _escaped(text: str) -> str:
    """The text with control characters escaped, so that names in a file cannot control the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
