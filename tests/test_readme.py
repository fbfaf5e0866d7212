"""What the README shows is so."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from neurocuda import Discretization
from neurocuda.discretization import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert tuple(names["y"].shape) == (16, 4, 10)


def test_table_of_presets_is_complete() -> None:
    default = asdict(Discretization())
    for name, preset in PRESETS.items():
        changes = [f"{k}={v}" for k, v in asdict(preset).items() if v != default[k]]
        assert f"| `{name}` | {', '.join(f'`{change}`' for change in changes)} |" in README


def test_table_of_fields_shows_the_defaults() -> None:
    for field, value in asdict(Discretization()).items():
        shown = "1e-4" if field == "dt" else value
        assert re.search(rf"^\| `{field}` \| `{re.escape(str(shown))}`", README, re.MULTILINE)
