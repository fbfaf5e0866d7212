"""A bar of progress, on a terminal only."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import Progress


def progress() -> Progress:
    """A bar on a terminal, gone when it is done; nothing elsewhere."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not (console.is_terminal and sys.stderr.isatty()))
