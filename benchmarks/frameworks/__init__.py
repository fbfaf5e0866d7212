"""The tools that run the rows. A tool that is not installed, or does not import, is named and left out."""

import importlib
from importlib.metadata import PackageNotFoundError, version

from benchmarks.problem import Candidates

TOOLS = {
    "ours": "neurocuda",
    "floors": "torch",
    "plain": "torch",
    "snntorch": "snntorch",
    "norse": "norse",
    "sinabs": "sinabs",
    "spikingjelly": "spikingjelly",
    "nirtorch": "nirtorch",
}
"""Modules of this package, and the distribution each measures."""


def available() -> tuple[dict[str, Candidates], dict[str, str]]:
    """The candidates of every tool that imports, and for the others why not."""
    found: dict[str, Candidates] = {}
    missing: dict[str, str] = {}
    for module, distribution in TOOLS.items():
        try:
            found[module] = importlib.import_module(f"benchmarks.frameworks.{module}").candidates
        except Exception as error:  # whatever a foreign package raises, the others are still measured
            missing[distribution] = f"does not import: {type(error).__name__}: {error}"
    return found, missing


def versions() -> dict[str, str]:
    """Distributions and their versions, "not installed" where there is none."""
    return {name: _version(name) for name in dict.fromkeys([*TOOLS.values(), "nir", "numpy"])}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
