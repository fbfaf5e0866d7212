"""The exceptions of NeuroCUDA: one small family, each message naming what was expected and what was found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class NeuroCUDAError(Exception):
    """Base of every error that NeuroCUDA raises on purpose."""


class FileError(NeuroCUDAError):
    """A file that cannot be read or written, or that is not NIR."""


class ArgumentError(NeuroCUDAError, ValueError):
    """An argument of a call that does not fit: an input signal, a state, a field, a name."""


class UnsupportedModuleError(NeuroCUDAError):
    """A part of a torch model that has no meaning as a spiking network. `path` is the path of its module."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type[UnsupportedModuleError], tuple[str, str]]:
        return type(self), (str(self), self.path)


class GraphError(NeuroCUDAError):
    """A graph that has no meaning. `problems` holds everything that was found, in canonical order."""

    def __init__(self, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems

    def __reduce__(self) -> tuple[type[GraphError], tuple[str, tuple[Problem, ...]]]:
        return type(self), (str(self), self.problems)


class ShapeError(GraphError):
    """Shapes that do not fit together."""


class AlgebraicLoopError(GraphError):
    """A cycle without state: each of its nodes would need its own output of the same step."""


class NeuroCUDAWarning(UserWarning):
    """Something that is run as asked, and is probably not what was meant."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a graph.

    `where` names the node (or the edge, as `source -> target`), `field` the parameter if there is one.
    """

    where: str
    field: str | None
    expected: str
    found: str
    error: type[GraphError] = GraphError

    def __str__(self) -> str:
        place = self.where if self.field is None else f"{self.where}, field {self.field!r}"
        return f"{place}: expected {self.expected}, found {self.found}"


def raise_problems(problems: Iterable[Problem], source: str) -> None:
    """Raise the first problem's own error with every problem in its message; do nothing if there is none."""
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
    """A phrase that names the existing name most like `name`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"the nearest name is {close[0]!r}" if close else "there are no names"
