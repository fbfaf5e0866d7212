"""Outside `neurocuda/graph/`, code reads the traits of a primitive's record, and compares no names of primitives."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

from neurocuda.graph import PRIMITIVES
from neurocuda.graph.primitives import TRACED

MOST = 20
_CLASS = "a class of neurons, which a Discretization names after a primitive"
ALLOWED = {
    (f"neurocuda/{file}", function): why
    for file, function, why in (
        ("convert/tracing/fold_batchnorm.py", "fold", "a pass that replaces all nodes of one type, and that alone"),
        ("discretization/by_class.py", "canonical", _CLASS),
        ("discretization/by_class.py", "value_of", _CLASS),
        ("discretization/settings.py", "reset_delay_of", _CLASS),
        ("nn/nir_neurons.py", "_unit_gain", _CLASS),
        ("quantization/quantize.py", "_fire", _CLASS),
    )
}
"""File and function of each comparison, and why no trait takes its place."""

NAMES = {*PRIMITIVES, *TRACED}


def modules(root: Path) -> dict[str, ast.Module]:
    return {
        file.relative_to(root).as_posix(): ast.parse(file.read_text())
        for file in sorted((root / "neurocuda").rglob("*.py"))
    }


def is_named(expression: ast.AST | None, bound: set[str]) -> bool:
    """Whether an expression is a primitive's name, a collection of such, or one of the names bound to either."""
    match expression:
        case ast.Constant(value):
            return isinstance(value, str) and value in NAMES
        case ast.Name(name) | ast.Attribute(attr=name):
            return name in bound
        case ast.Set(parts) | ast.Tuple(parts) | ast.List(parts) | ast.Call(args=parts) | ast.Dict(keys=parts):
            return any(is_named(part, bound) for part in parts)
        case ast.BinOp(left, _, right):
            return is_named(left, bound) or is_named(right, bound)
        case ast.MatchValue(value) | ast.Starred(value):
            return is_named(value, bound)
    return False


def bound_names(trees: dict[str, ast.Module]) -> set[str]:
    """The module-level names, of all modules, that stand for names of primitives."""
    bound: set[str] = set()
    while True:
        before = len(bound)
        for statement in (statement for tree in trees.values() for statement in tree.body):
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            if isinstance(statement, ast.Assign | ast.AnnAssign) and is_named(statement.value, bound):
                bound |= {target.id for target in targets if isinstance(target, ast.Name)}
        if len(bound) == before:
            return bound


def comparisons(tree: ast.AST, bound: set[str], function: str = "") -> Iterator[tuple[str, int, str]]:
    """The innermost function, the line and the text of each comparison."""
    for child in ast.iter_child_nodes(tree):
        inner = child.name if isinstance(child, ast.FunctionDef) else function
        compared = [child.left, *child.comparators] if isinstance(child, ast.Compare) else []
        if isinstance(child, ast.MatchValue):
            compared = [child]
        if any(is_named(part, bound) for part in compared):
            yield inner, compared[0].lineno, ast.unparse(child)
        yield from comparisons(child, bound, inner)


def found_in(root: Path) -> list[tuple[str, str, int, str]]:
    trees = modules(root)
    bound = bound_names(trees)
    outside = {file: tree for file, tree in trees.items() if not file.startswith("neurocuda/graph/")}
    return [(file, *found) for file, tree in outside.items() for found in comparisons(tree, bound)]


def test_there_are_no_others() -> None:
    found = found_in(ROOT)
    listing = "\n".join(f"{file}:{line} in {function}: {text}" for file, function, line, text in found)
    assert Counter((file, function) for file, function, *_ in found) == Counter([*ALLOWED]), listing
    assert len(found) <= MOST


@pytest.mark.parametrize(
    "text",
    [
        'node.type == "Conv2d"',
        '"Conv2d" != node.type',
        'node.type not in ("Affine", "Linear")',
        "node.type in _POOLS",
        "node.type in model._POOLS | {'Scale'}",
        "node.type in _MORE",
    ],
)
def test_a_comparison_is_found(text: str) -> None:
    trees = {
        "other": ast.parse('_POOLS = frozenset({"SumPool2d"})\n_MORE = tuple(_POOLS)'),
        "here": ast.parse(f"def f(node):\n    return {text}"),
    }
    assert [function for function, *_ in comparisons(trees["here"], bound_names(trees))] == ["f"]


def test_a_case_is_found_and_a_table_is_none() -> None:
    case = ast.parse('def f(node):\n    match node.type:\n        case "Flatten" | "Delay":\n            pass')
    assert len(list(comparisons(case, set()))) == 2
    table = ast.parse(
        'TABLE = {"Flatten": len}\ndef f(node, sketch):\n    sketch.add("x", "Flatten", TABLE[node.type])'
    )
    assert not list(comparisons(table, bound_names({"": table})))


if __name__ == "__main__":  # counts those of another tree: python -m tests.project.test_primitive_comparisons ROOT
    import sys

    every = found_in(Path(sys.argv[1]))
    print(len(every), "comparisons in", len({file for file, *_ in every}), "files")
