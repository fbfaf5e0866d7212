"""The Discretization in the metadata of a graph: written, read and resolved against what a caller asks for."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple

import numpy as np

from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, GraphError, NeuroCUDAWarning, Problem
from neurocuda.graph import Graph
from neurocuda.graph.fields import describe

NAMESPACE = "neurocuda"
"""The key of a graph's metadata for all that this package writes."""

FORMAT = 1
"""The version of these metadata. Files of version 0.1 have `discretization` and `versions` without a namespace."""

_LONGEST = 200  # characters of a value

_FIELDS = frozenset(field.name for field in fields(Discretization)) | {"if_gain"}

_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(_FIELDS, (str,)),
    **{field.name: (int, str) for field in fields(Discretization) if isinstance(field.default, int)},
    **{field.name: (float, int) for field in fields(Discretization) if isinstance(field.default, float)},
}
"""The types of each field in a file. Integers may be text, where a field differs by class of neuron."""


class Resolved(NamedTuple):
    """The Discretization of a run, and where it comes from, for people."""

    discretization: Discretization
    origin: str


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
        d = _read(graph, graph.metadata.get("discretization"))
        # Version 0.1 stated the Discretization of the loops in a file with nir.IF, which subtract their threshold.
        return replace(d, reset="subtract") if str(graph.metadata.get("reset")) == "if" else d
    if not isinstance(space, Mapping):
        raise _problem(graph, NAMESPACE, "a group", describe(space))
    found = _plain(space.get("format"))
    if type(found) is not int or found != FORMAT:
        newer = " (a newer version wrote it)" if type(found) is int and found > FORMAT else ""
        raise _problem(graph, f"{NAMESPACE}.format", f"{FORMAT}", _described(space.get("format")) + newer)
    return _read(graph, space.get("discretization"))


def _read(graph: Graph, values: object) -> Discretization:
    """The Discretization of the fields `values` of a file."""
    if not isinstance(values, Mapping):
        raise _problem(graph, "discretization", "a group of fields", _described(values))
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if name not in _FIELDS:
            expected = f"one of the fields {', '.join(sorted(_FIELDS))}"
            raise _problem(graph, "discretization", expected, f"a field {describe(name)}")
        plain[name] = _plain(value)
        if type(plain[name]) not in _TYPES[name] or len(str(plain[name])) > _LONGEST:
            raise _problem(graph, f"discretization.{name}", _expected(name), _described(value))
    try:
        return Discretization(**plain)
    except ArgumentError as error:
        told = re.fullmatch(r"discretization, field '(\w+)': expected (.*?), found (.*)", str(error), re.DOTALL)
        field, expected, wrong = told.groups() if told else ("", str(error), "another")
        raise _problem(graph, f"discretization.{field}", expected, wrong) from error


def resolve(graph: Graph, given: Discretization | None = None, given_as: str = "given", **changes: Any) -> Resolved:
    """The Discretization of a run: the given one, else that of the file, else the default.

    given_as: the origin of the given one. changes: fields that replace those of it, None where the caller names none.
    Raises `ArgumentError` and `GraphError`.
    """
    if not isinstance(given, Discretization | None):
        found = f"{given!r} ({type(given).__name__})"
        raise ArgumentError(f"discretization: expected a Discretization, found {found}")
    own = stated(graph)
    if given is not None:
        base, origin = given, given_as
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


def settled(graph: Graph, given: Discretization | None) -> Discretization:
    """`resolve` for a public function: warns its caller if the given Discretization contradicts the file."""
    d = resolve(graph, given).discretization
    for line in contradictions(graph, d):
        warnings.warn(f"{graph.source}: {line}", NeuroCUDAWarning, stacklevel=3)
    return d


def restated(graph: Graph, d: Discretization) -> Mapping[str, Any]:
    """The metadata of a graph with `d` in the place of the Discretization that it states, if it states one."""
    if stated(graph) in (None, d):
        return graph.metadata
    space = graph.metadata.get(NAMESPACE, {})
    more = {key: value for key, value in space.items() if key not in ("format", "discretization")}
    return {**graph.metadata, **written(d, more)}


def _plain(value: Any) -> Any:
    """Numbers and texts as HDF5 has them, as Python's."""
    if isinstance(value, np.generic | np.ndarray) and value.size == 1 and value.ndim <= 1:
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _expected(name: str) -> str:
    of_type = {str: f"a text of at most {_LONGEST} characters", int: "an integer", float: "a number"}
    return of_type[_TYPES[name][0]]


def _described(value: object) -> str:
    return "none" if value is None else describe(value)


def _problem(graph: Graph, field: str, expected: str, found: str) -> GraphError:
    problem = Problem("metadata", field, expected, found)
    return GraphError(f"{graph.source}: {problem}", (problem,))
