"""Docstrings of public names: they have the sections that apply, and their examples run."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import neurocuda
from neurocuda import nn, verify

PUBLIC: dict[str, Any] = {
    **{name: getattr(neurocuda, name) for name in neurocuda.__all__ if name not in ("nn", "__version__")},
    **{f"nn.{name}": getattr(nn, name) for name in nn.__all__},
    **{f"verify.{name}": getattr(verify, name) for name in ("Difference", "Report", "Trial", "verify")},
}
NAMES = sorted(PUBLIC)


def documented(public: Any) -> Iterator[tuple[str, Any]]:
    """The object, and the public methods and properties that its class defines."""
    yield "", public
    if inspect.isclass(public):
        inherited = {
            name for base in public.__mro__ if not base.__module__.startswith("neurocuda") for name in dir(base)
        }
        for name, member in vars(public).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            is_new = name not in inherited or name == "forward"
            if is_new and not name.startswith("_") and (inspect.isfunction(function) or isinstance(member, property)):
                yield f".{name}", function


def expected_sections(part: str, member: Any) -> list[str]:
    """The sections that a docstring needs; an example only for a function or a class, not for a method."""
    if isinstance(member, property):
        return []
    is_class = inspect.isclass(member)
    is_exception = is_class and issubclass(member, BaseException)
    if is_exception and "__init__" not in vars(member):
        return []
    signature = inspect.signature(member)
    arguments = set(signature.parameters) - {"self", "cls"}
    if part and all(signature.parameters[name].kind == inspect.Parameter.VAR_KEYWORD for name in arguments):
        return []  # such as the presets of `Discretization`
    returns = str(signature.return_annotation)
    has_result = not is_class and returns != "None" and "Iterator" not in returns  # a context manager is an iterator
    raises = any("    raise " in inspect.getsource(function) for function in bodies(member))
    return [
        *(["Args:"] if arguments else []),
        *(["Returns:"] if has_result else []),
        *(["Raises:"] if raises else []),
        *([] if part or is_exception else ["Example:"]),
    ]


def bodies(member: Any) -> list[Any]:
    """The functions that run when a function or a class is called."""
    if not inspect.isclass(member):
        return [member]
    constructors = (vars(member).get(name) for name in ("__init__", "__post_init__"))
    return [
        function for function in constructors if function is not None and function.__code__.co_filename != "<string>"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_have_their_sections(name: str) -> None:
    for part, member in documented(PUBLIC[name]):
        text = inspect.getdoc(member) or ""
        assert text, f"{name}{part} has no docstring"
        lines = [line.strip() for line in text.splitlines()]
        missing = [section for section in expected_sections(part, member) if section not in lines]
        assert not missing, f"{name}{part}: expected {missing} in its docstring"


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_described_by_name(name: str) -> None:
    for part, member in documented(PUBLIC[name]):
        if "Args:" not in expected_sections(part, member):
            continue
        described = (inspect.getdoc(member) or "").partition("Args:")[2]
        for argument in inspect.signature(member).parameters.values():
            stars = {argument.VAR_POSITIONAL: "*", argument.VAR_KEYWORD: "**"}.get(argument.kind, "")
            if argument.name not in ("self", "cls"):
                assert f"\n    {stars}{argument.name}: " in described, f"{name}{part}: {argument.name} is not described"


SOURCES = sorted(Path(neurocuda.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "-".join(path.parts[path.parts.index("neurocuda") :]))
def test_wrapped_descriptions_are_indented(path: Path) -> None:
    entry = re.compile(r"    \*{0,2}[\w.]+: ")
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        section = ""
        for line in (ast.get_docstring(node) or "").splitlines():
            if line in ("Args:", "Raises:") or not line.strip():
                section = line
            elif section:
                indent = len(line) - len(line.lstrip())
                assert indent == 8 or entry.match(line), f"{path}: {getattr(node, 'name', 'module')}: {line!r}"
            else:
                assert not line.startswith(("Args: ", "Raises: ")), f"{path}: {line!r}"


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str) -> None:
    torch.manual_seed(0)
    failed: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for part, member in documented(PUBLIC[name]):
        text = inspect.getdoc(member) or ""
        test = doctest.DocTestParser().get_doctest(text, {}, f"{name}{part}", None, None)
        runner.run(test, out=failed.append)
    assert not failed, "".join(failed)
