"""The Discretization in the metadata of a graph: written, read and resolved against what a caller asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, GraphError, Problem
from neurocuda.graph import Graph
from neurocuda.graph.fields import describe

NAMESPACE = "neurocuda"
"""The key of a graph's metadata for all that this package writes."""

FORMAT = 1
"""The version of these metadata. Files of version 0.1 have `discretization` and `versions` without a namespace."""

_LONGEST = 200  # characters of a value

_FIELDS = frozenset(field.name for field in fields(Discretization)) | {"if_gain"}


@dataclass(frozen=True)
class Resolved:
    """The Discretization of a run. origin: where it comes from, for people."""

    discretization: Discretization
    origin: str

    @property
    def parts(self) -> tuple[Discretization, str]:
        return self.discretization, self.origin


def written(d: Discretization, more: Mapping[str, object]) -> dict[str, object]:
    """The metadata of a graph that runs with `d`. more: further entries of the namespace."""
    return {NAMESPACE: {"format": FORMAT, "discretization": asdict(d), **more}}


def entry(graph: Graph, name: str) -> Any:
    """An entry of the namespace, or of a file of version 0.1; None if there is none."""
    space = graph.metadata.get(NAMESPACE)
    return space.get(name) if isinstance(space, Mapping) else graph.metadata.get(name)


def stated(graph: Graph) -> Discretization | None:
    """The Discretization that a graph states. Raises `GraphError` for a malformed one, an unknown field or format."""
    space = graph.metadata.get(NAMESPACE)
    if space is None:
        versions = graph.metadata.get("versions")
        if not isinstance(versions, Mapping) or NAMESPACE not in versions:
            return None
        space = {"format": FORMAT, **graph.metadata}
    if not isinstance(space, Mapping):
        raise _problem(graph, NAMESPACE, "a group", describe(space))
    found = _plain(space.get("format"))
    if found != FORMAT:
        raise _problem(graph, f"{NAMESPACE}.format", f"{FORMAT}", f"{found!r} (a newer version wrote it)")
    values = space.get("discretization")
    if not isinstance(values, Mapping):
        raise _problem(graph, "discretization", "a group of fields", describe(values))
    for name, value in values.items():
        if name not in _FIELDS:
            expected = f"one of the fields {', '.join(sorted(_FIELDS))}"
            raise _problem(graph, "discretization", expected, f"a field {describe(name)}")
        if not isinstance(_plain(value), int | float | str) or len(str(_plain(value))) > _LONGEST:
            raise _problem(graph, f"discretization.{name}", "a number or a short text", describe(value))
    try:
        return Discretization(**{name: _plain(value) for name, value in values.items()})
    except ArgumentError as error:
        where, _, rest = str(error).partition(": expected ")
        expected, _, wrong = rest.rpartition(", found ")
        raise _problem(graph, where, expected, wrong) from error


def resolve(graph: Graph, given: Discretization | None = None, **changes: Any) -> Resolved:
    """The Discretization of a run: the given one, else that of the file, else the default.

    changes: fields that replace those of it, None where the caller names none.
    """
    own = stated(graph)
    if given is not None:
        base, origin = given, "given"
    elif own is not None:
        base, origin = own, "from the file"
    else:
        base, origin = Discretization(), "default"
    named = {name: value for name, value in changes.items() if value is not None}
    if not named:
        return Resolved(base, origin)
    listed = ", ".join(f"{name}={value!r}" for name, value in named.items())
    return Resolved(replace(base, **named), f"{origin}, with {listed}")


def contradictions(graph: Graph, d: Discretization) -> list[str]:
    """A warning if the file states other values than a run has; none or one line."""
    own = stated(graph)
    if own is None or own == d:
        return []
    pairs = [(field.name, getattr(own, field.name), getattr(d, field.name)) for field in fields(d)]
    differ = [(name, before, now) for name, before, now in pairs if before != now]
    there = ", ".join(f"{name}={before!r}" for name, before, _ in differ)
    here = ", ".join(f"{name}={now!r}" for name, _, now in differ)
    return [f"the file states {there}, but is run with {here}"]


def _plain(value: Any) -> Any:
    """Numbers and texts as HDF5 has them, as Python's."""
    if isinstance(value, np.generic | np.ndarray) and value.size == 1:
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _problem(graph: Graph, field: str, expected: str, found: str) -> GraphError:
    problem = Problem("metadata", field, expected, found)
    return GraphError(f"{graph.source}: {problem}", (problem,))
