"""The `neurocuda` command."""

from neurocuda.cli.app import main

__all__ = ["main"]
