"""What the README shows is so."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from digit_models import digits, trained
from places import ROOT

from neurocuda import Discretization
from neurocuda.discretization.settings import PRESETS

README = (ROOT / "README.md").read_text()


CONVERSION, USE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(example: str, **names: Any) -> dict[str, Any]:
    """The names that an example leaves, which starts with some that it takes for granted."""
    exec(compile(example, "README.md", "exec"), names)
    return names


def test_a_trained_model_becomes_a_file_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = digits()[0][:100]
    names = run(CONVERSION, model=trained("residual"), images=images)
    y = names["y"]
    assert tuple(y.shape) == (40, 8, 10)
    assert torch.equal(y[8:].mean(0), names["snn"](images[:8]))
    assert len([line for line in CONVERSION.splitlines() if line]) == 5


def test_the_example_of_use_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert tuple(run(USE)["y"].shape) == (16, 4, 10)


def test_table_of_presets_is_complete() -> None:
    default = asdict(Discretization())
    for name, preset in PRESETS.items():
        changes = [f"{k}={v}" for k, v in asdict(preset).items() if v != default[k]]
        assert f"| `{name}` | {', '.join(f'`{change}`' for change in changes)} |" in README


def test_table_of_fields_shows_the_defaults() -> None:
    for field, value in asdict(Discretization()).items():
        shown = "1e-4" if field == "dt" else value
        assert re.search(rf"^\| `{field}` \| `{re.escape(str(shown))}`", README, re.MULTILINE)
