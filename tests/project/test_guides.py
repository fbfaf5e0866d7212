"""The Python in the guides runs; what needs a tool that is not here is skipped, and says which."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from places import ROOT

DOCS = ROOT / "docs"
BLOCKS = [
    pytest.param(page, block, id=f"{page.stem} {number}")
    for page in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_the_example_runs(page: Path, block: str) -> None:
    for tool in sorted(set(re.findall(r"^(?:from|import) (\w+)", block, re.MULTILINE))):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed")
    exec(compile(block, page.name, "exec"), {"__name__": "guide"})


def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 4
