"""The sweeps run, compare before they time, and are written and drawn."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from benchmarks import sweeps


@pytest.mark.slow
def test_a_sweep_is_measured_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sweeps.sweeps(tmp_path)  # without the files of the paper
    assert list(whole) == ["neurons", "batch"]
    small = dataclasses.replace(whole["neurons"], values=(10.0, 100.0), threads=(1, 2))
    monkeypatch.setattr(sweeps, "sweeps", lambda paper: {"neurons": small})
    output = tmp_path / "sweeps.csv"
    monkeypatch.setattr("sys.argv", ["sweeps", "--repeats", "1", "--output", str(output)])
    sweeps.main()
    with output.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(line["value"], line["used_threads"]) for line in lines} == {
        (value, threads) for value in ("10.0", "100.0") for threads in ("1", "2")
    }
    assert {line["candidate"] for line in lines} >= {"neurocuda", "plain torch, stepped"}
    for line in lines:
        per_unit = float(line["median_ms"]) * 1e6 / (10 * float(line["value"]))
        assert float(line["ns_per_unit"]) == pytest.approx(per_unit, rel=1e-3)  # four digits of each are written
    assert output.with_suffix(".png").stat().st_size > 10_000
