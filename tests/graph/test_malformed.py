"""Malformed graphs raise an error that names the place, what was expected and what was found."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from malformed_graphs import FIELD_VALUES, LOOPS, SHAPES, STRUCTURE
from nir_files import write_raw
from raw_nodes import FIELDS, OPTIONAL, VECTOR, Raw, chain, graph, node, ramp, single, terminal

import neurocuda
from neurocuda import AlgebraicLoopError, GraphError, NeuroCUDAError, ShapeError
from neurocuda.graph.serialization import check

TABLES = {GraphError: STRUCTURE | FIELD_VALUES, ShapeError: SHAPES, AlgebraicLoopError: LOOPS}
CASES = [
    pytest.param(raw, kind, words, id=name) for kind, table in TABLES.items() for name, (raw, words) in table.items()
]


def refusal(raw: Raw, path: Path) -> GraphError:
    """The error of loading a raw graph. A cycle without state is valid in a file; only loading refuses it."""
    write_raw(raw, path)
    with pytest.raises(NeuroCUDAError) as caught:
        neurocuda.load(path)
    assert isinstance(caught.value, GraphError), repr(caught.value)
    return caught.value


@pytest.mark.parametrize(("raw", "kind", "words"), CASES)
def test_each_mistake_is_refused_by_name(raw: Raw, kind: type[GraphError], words: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.nir"
    error = refusal(raw, path)
    assert type(error) is kind, repr(error)
    for word in [str(path), "expected", "found", *words.split("|")]:
        assert word in str(error), f"{word!r} is not in: {error}"


@pytest.mark.parametrize(("raw", "kind", "words"), CASES)
def test_each_mistake_is_told_once(raw: Raw, kind: type[GraphError], words: str, tmp_path: Path) -> None:
    """Nodes before and after a broken one are not reported."""
    problems = refusal(raw, tmp_path / "wrong.nir").problems
    assert len(problems) == 1, "\n".join(map(str, problems))
    assert problems[0].error is kind


def test_no_two_mistakes_have_the_same_message(tmp_path: Path) -> None:
    path = tmp_path / "wrong.nir"
    told: dict[str, str] = {}
    for table in TABLES.values():
        for name, (raw, _) in table.items():
            body = str(refusal(raw, path)).replace(str(path), "")
            assert body not in told, f"{name!r} and {told[body]!r}: {body}"
            told[body] = name
    assert len(told) >= 45


OWED = [(kind, field) for kind, fields in FIELDS.items() for field in fields if field not in OPTIONAL]


@pytest.mark.parametrize(("kind", "field"), OWED)
def test_each_missing_field_is_named(kind: str, field: str, tmp_path: Path) -> None:
    error = refusal(single(kind, **{field: None}), tmp_path / "missing.nir")
    (problem,) = error.problems
    assert (problem.where, problem.field, problem.found) == ("node 'n'", field, "none")
    assert kind in problem.expected
    assert str(error) == f"{tmp_path / 'missing.nir'}: {problem}"


def test_an_empty_graph_lacks_both_ends(tmp_path: Path) -> None:
    text = str(refusal(graph({}, []), tmp_path / "empty.nir"))
    assert "an Input node" in text
    assert "an Output node" in text


def test_nodes_without_a_shape_are_named(tmp_path: Path) -> None:
    unshaped = graph({"f": node("Flatten"), "out": terminal("Output", VECTOR)}, [("f", "out")])
    error = refusal(unshaped, tmp_path / "unshaped.nir")
    assert type(error) is ShapeError
    assert "node 'f'" in str(error)


def five_mistakes() -> Raw:
    raw = chain({"a": node("LIF", tau=0.0), "b": node("Linear", weight=ramp(4, 3)), "d": node("LI")})
    raw["nodes"] |= {"c": node("Conv2d", padding="full"), "e": {"type": "Nothing"}, "f": node("IF", r=np.nan)}
    raw["edges"] += [("in", "c"), ("c", "f"), ("f", "out"), ("in", "e"), ("e", "d"), ("dd", "out")]
    return raw


FIVE = {
    ("node 'a'", "tau"),
    ("node 'c'", "padding"),
    ("node 'e'", "type"),
    ("node 'f'", "r"),
    ("edge 'dd' -> 'out' in the graph", None),
}


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "five.nir"
    write_raw(five_mistakes(), path)
    found, problems = check(path)
    assert found is None
    assert {(problem.where, problem.field) for problem in problems} == FIVE
    assert len(problems) == 5, "\n".join(map(str, problems))
    error = refusal(five_mistakes(), path)
    assert error.problems == problems
    assert str(error).splitlines() == [f"{path}: {problem}" for problem in problems]


def test_problems_stand_in_an_order_of_their_own(tmp_path: Path) -> None:
    """The order of nodes and edges in the file does not change it."""
    raw = five_mistakes()
    raw["edges"] += [("nope", "a"), ("a", "nope"), ("zzz", "a"), ("in", "missing"), ("d", "in")]
    orders = []
    for seed in range(6):
        names, edges = list(raw["nodes"]), list(raw["edges"])
        for items in (names, edges):
            random.Random(seed).shuffle(items)
        error = refusal(graph({name: raw["nodes"][name] for name in names}, edges), tmp_path / "wrong.nir")
        orders.append([str(problem) for problem in error.problems])
    assert len(orders[0]) >= 10
    for order in orders[1:]:
        assert order == orders[0]


def test_two_loops_are_both_named(tmp_path: Path) -> None:
    raw = chain({"a": node("Scale"), "b": node("LIF"), "c": node("Linear", weight=ramp(3, 3))})
    raw["edges"] += [("a", "a"), ("c", "c"), ("b", "b")]
    error = refusal(raw, tmp_path / "loops.nir")
    assert type(error) is AlgebraicLoopError
    first, second = error.problems
    assert "'a' (Scale)" in first.where
    assert "'c' (Linear)" in second.where
    assert "'b'" not in str(error)
