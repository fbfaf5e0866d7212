"""The exceptions of NeuroCUDA. Each message names the argument or node, what was expected, and what was found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class NeuroCUDAError(Exception):
    """Base class of the exceptions that NeuroCUDA raises.

    Example:
        >>> import neurocuda
        >>> try:
        ...     neurocuda.read("missing.nir")
        ... except neurocuda.NeuroCUDAError as error:
        ...     print(type(error).__name__)
        FileError
    """


class FileError(NeuroCUDAError):
    """A file cannot be read or written, or is not a NIR file."""


class ArgumentError(NeuroCUDAError, ValueError):
    """An argument of a call does not fit. Also a ValueError."""


class UnsupportedModuleError(NeuroCUDAError):
    """A part of a torch model has no equivalent in a spiking network.

    Args:
        message: The module or function, and what to use instead.
        path: Path of the module in the model, such as "features.3"; default "".
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type[UnsupportedModuleError], tuple[str, str]]:
        return type(self), (str(self), self.path)


class GraphError(NeuroCUDAError):
    """A graph is invalid.

    Args:
        message: One line for each problem.
        problems: All problems, in canonical order: `where` (node or edge), `field`, `expected`, `found`; default ().
    """

    def __init__(self, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems

    def __reduce__(self) -> tuple[type[GraphError], tuple[str, tuple[Problem, ...]]]:
        return type(self), (str(self), self.problems)


class ShapeError(GraphError):
    """The shapes of a graph do not fit together."""


class AlgebraicLoopError(GraphError):
    """A cycle has no state: each of its nodes needs its own output of the same time step."""


class NeuroCUDAWarning(UserWarning):
    """A call runs as requested, but the request is probably a mistake."""


@dataclass(frozen=True)
class Problem:
    """One problem of a graph, at a node or an edge ("source -> target") and, if any, one of its fields."""

    where: str
    field: str | None
    expected: str
    found: str
    error: type[GraphError] = GraphError

    def __str__(self) -> str:
        place = self.where if self.field is None else f"{self.where}, field {self.field!r}"
        return f"{place}: expected {self.expected}, found {self.found}"


def raise_problems(problems: Iterable[Problem], source: str) -> None:
    """Raises the error of the first problem with all problems in its message; does nothing without a problem."""
    problems = tuple(problems)
    if not problems:
        return
    lines = [f"{source}: {problem}" for problem in problems]
    raise problems[0].error("\n".join(lines), problems)


def check_integer(name: str, value: object, least: int, most: int | None = None) -> int:
    """The value of the argument `name`, an integer from `least` to `most`. Raises `ArgumentError`."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= (value if most is None else most):
        return value
    bounds = f">= {least}" if most is None else f"from {least} to {most}"
    raise ArgumentError(f"{name}: expected an integer {bounds}, found {value!r}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A phrase for error messages: the known name most similar to `name`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"the nearest name is {close[0]!r}" if close else "there are no names"
