"""Lines and tables on the terminal: tables fit it, and in a pipe nothing is wrapped or cut."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurocuda.errors import GraphError, NeuroCUDAError

_UNLIMITED = 1_000_000


def escape_unprintable() -> None:
    """Let characters that the encoding of stdout or stderr lacks be shown escaped, not end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(text: str, *, err: bool = False) -> None:
    """Print lines of text, to stderr if `err`."""
    typer.echo(_harmless(text), err=err)


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table under its title. On a terminal, cells that are too long are folded."""
    console = Console(highlight=False)
    terminal = console.is_terminal
    if not terminal:
        console = Console(highlight=False, width=_UNLIMITED)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_harmless(cell)) for cell in row))
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    typer.echo("\n".join(["", title, *(line if terminal else line.rstrip() for line in lines)]))


@contextmanager
def messages() -> Iterator[None]:
    """Turn an error of NeuroCUDA into a message and an exit code: 1 for a graph, 2 for anything else."""
    try:
        yield
    except NeuroCUDAError as error:
        show(f"error: {error}", err=True)
        raise typer.Exit(1 if isinstance(error, GraphError) else 2) from error


def count(number: int, noun: str) -> str:
    """A number of things: "no edges", "1 edge", "2 edges"."""
    return f"{number} {noun}" if number == 1 else f"{number or 'no'} {noun}s"


def _harmless(text: str) -> str:
    """The text with control characters escaped, so that a file cannot write to the terminal as it likes."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
