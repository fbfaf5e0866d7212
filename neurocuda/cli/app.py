"""The `neurocuda` command: inspects a NIR file, checks it, runs it, verifies it, and converts a model to one.

Exit codes: 0 success; 1 the graph has problems, or a trial differs; 2 the command could not be carried out.

The modules of the commands import what computes (executor, converter, readers) when a command runs: `--help` imports
none of it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from neurocuda.cli.console import escape_unprintable
from neurocuda.cli.convert import convert
from neurocuda.cli.inspect import check, info
from neurocuda.cli.run import run
from neurocuda.cli.verify import verify
from neurocuda.version import __version__

app = typer.Typer(
    help="Runs spiking neural networks described in NIR.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command with the arguments of the process."""
    escape_unprintable()
    app(prog_name="neurocuda")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"neurocuda {__version__}")
        raise typer.Exit


for command in (info, check, run, verify, convert):
    app.command()(command)
