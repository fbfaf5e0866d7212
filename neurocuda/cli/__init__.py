"""The `neurocuda` command line: one module for each command."""

from neurocuda.cli.app import main

__all__ = ["main"]
