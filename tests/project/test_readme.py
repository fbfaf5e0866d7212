"""README, docs/ and CONTRIBUTING.md: examples run, tables are complete, figures match the results, links resolve."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from digit_models import digits, trained
from places import ROOT

from benchmarks import overview
from neurocuda import Discretization
from neurocuda.discretization.settings import NATIVE, PRESETS

README = (ROOT / "README.md").read_text()
SEMANTICS = (ROOT / "docs/semantics.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

USE, CONVERSION = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(example: str, **names: Any) -> dict[str, Any]:
    """The variables after an example has run that starts with the variables `names`."""
    exec(compile(example, "README.md", "exec"), names)
    return names


def lines(example: str) -> int:
    return len([line for line in example.splitlines() if line])


def test_a_file_is_run_in_five_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert tuple(run(USE)["y"].shape) == (16, 4, 10)
    assert lines(USE) == 5


def test_a_trained_model_becomes_a_file_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = digits()[0][:100]
    names = run(CONVERSION, model=trained("residual"), images=images)
    y = names["y"]
    assert tuple(y.shape) == (40, 8, 10)
    assert torch.equal(y[8:].mean(0), names["snn"](images[:8]))
    assert lines(CONVERSION) == 5


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("path", overview.NETWORKS, ids=["cpu", "gpu"])
def test_the_table_of_speed_is_that_of_the_results(path: Path) -> None:
    for row in overview.rows(path):
        assert row.markdown() in README


def test_the_plot_of_speed_is_drawn(tmp_path: Path) -> None:
    assert overview.draw(tmp_path / "speed.png").stat().st_size > 10_000


def test_table_of_presets_is_complete() -> None:
    default = asdict(Discretization())
    for name, preset in PRESETS.items():
        changes = [f"{k}={v}" for k, v in asdict(preset).items() if v != default[k]]
        assert f"| `{name}` | {', '.join(f'`{change}`' for change in changes)} |" in SEMANTICS


def test_table_of_native_presets_is_complete() -> None:
    for name, changes in NATIVE.items():
        shown = ", ".join(f"`{field}={value}`" for field, value in changes.items())
        assert f"| `{name}` | {shown} |" in SEMANTICS
        preset, own = Discretization.preset(name), Discretization.preset(name, native=True)
        assert own == replace(preset, **changes) != preset


def test_table_of_fields_shows_the_defaults() -> None:
    for field, value in asdict(Discretization()).items():
        shown = "1e-4" if field == "dt" else value
        assert re.search(rf"^\| `{field}` \| `{re.escape(str(shown))}`", SEMANTICS, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist, and so do the headings that links name."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([\w-]+))?\)", page.read_text()):
        found = (page.parent / target) if target else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, (target, anchor)


def test_the_targets_that_contributing_names_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`make ([a-z0-9-]+)", "".join(page.read_text() for page in PAGES)))
    assert len(named) > 12
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
