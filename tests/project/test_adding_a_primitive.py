"""Follows docs/adding-a-primitive.md in a copy of the package; what leaves out a step fails by name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from places import ROOT

GUIDE = ROOT / "docs" / "adding-a-primitive.md"
STEP = re.compile(r"^In `(\S+)`, (before|after|in place of) `([^`\n]+)`:\n\n```\n(.*?)```$", re.MULTILINE | re.DOTALL)
NAME = "Negate"


@dataclass(frozen=True)
class Step:
    """Code of the guide, and the line of a file that it goes before, after or in place of."""

    file: str
    where: str
    line: str
    code: str

    def apply(self, root: Path) -> None:
        file = root / self.file
        text = file.read_text()
        assert text.count(f"\n{self.line}\n") == 1, f"{GUIDE.name}: {self.file} has no single line {self.line!r}"
        line = f"{self.line}\n"
        new = {"before": self.code + line, "after": line + self.code, "in place of": self.code}[self.where]
        file.write_text(text.replace(f"\n{line}", f"\n{new}"))


STEPS = [Step(*step) for step in STEP.findall(GUIDE.read_text())]
FILES = sorted({step.file for step in STEPS})


def followed(root: Path, without: str = "") -> subprocess.CompletedProcess[str]:
    """What comes of all steps but those in one file."""
    skipped = shutil.ignore_patterns("*.so", "_C*")
    shutil.copytree(ROOT / "neurocuda", root / "neurocuda", ignore=skipped)
    (root / "tests").mkdir()
    shutil.copytree(ROOT / "tests" / "support", root / "tests" / "support", ignore=skipped)
    for step in STEPS:
        if step.file != without:
            step.apply(root)
    path = os.pathsep.join(map(str, (root, root / "tests" / "support")))
    command = [sys.executable, str(root / "tests" / "support" / "added_primitive.py"), NAME]
    settings = {**os.environ, "PYTHONPATH": path, "NEUROCUDA_BACKEND": "reference"}
    return subprocess.run(command, env=settings, cwd=root, capture_output=True, text=True)


def test_the_guide_has_a_step_for_each_table() -> None:
    assert len(STEPS) == len(re.findall(r"^In `", GUIDE.read_text(), re.MULTILINE))
    assert {Path(file).stem for file in FILES} >= {"primitives", "range_rules", "layers", "relu_network", "oracle"}


def test_a_graph_with_the_new_primitive_equals_the_oracle(tmp_path: Path) -> None:
    result = followed(tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"{NAME}: 5 nodes equal the oracle, from {tmp_path}" in result.stdout


@pytest.mark.parametrize("file", FILES)
def test_without_a_step_the_error_names_the_primitive_and_the_file(file: str, tmp_path: Path) -> None:
    result = followed(tmp_path, without=file)
    assert result.returncode != 0
    error = result.stderr.strip().splitlines()[-1]
    assert NAME in error, result.stderr
    assert file in error, result.stderr
