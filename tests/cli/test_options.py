"""Commands run a file with the Discretization that it states; --dt and --like change what they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import command
from nir_files import write_raw
from raw_nodes import chain, node

from neurocuda import Discretization
from neurocuda.discretization.metadata import written

FILE = Discretization(dt=2e-3, spike_when="reaching", reset="subtract")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A neuron that an input of 0.5 brings to its threshold, 0.5, in one step of 2 ms."""
    raw = chain({"n": node("LIF", tau=2e-3, v_threshold=0.5)}, metadata=written(FILE, {}))
    write_raw(raw, tmp_path / "a.nir")
    np.save(tmp_path / "x.npy", np.full((4, 1, 3), 0.5, np.float32))
    return tmp_path / "a.nir"


@pytest.mark.parametrize(
    ("options", "shown", "told"),
    [
        ((), "(from the file): dt=0.002, integrator=euler, spike_when=reaching, reset=subtract,", ""),
        (
            ("--dt", 1e-3),
            "(from the file, with dt=0.001): dt=0.001, integrator=euler, spike_when=reaching,",
            "dt=0.002",
        ),
        (
            ("--like", "norse"),
            "(given): dt=0.001, integrator=euler, spike_when=above, reset=to-value,",
            "reset='subtract'",
        ),
        (("--like", "norse", "--dt", 2e-3), "(given, with dt=0.002): dt=0.002, ", "spike_when='reaching'"),
    ],
)
def test_info_tells_where_the_settings_come_from(file: Path, options: Any, shown: str, told: str) -> None:
    out, _ = command("info", file, *options)
    assert f"Discretization {shown}" in out
    lines = [line for line in out.splitlines() if line.startswith("warning:") and "the file states" in line]
    assert [told in line for line in lines] == ([True] if told else [])


def test_run_follows_the_file(file: Path) -> None:
    x, y = file.with_name("x.npy"), file.with_name("y.npz")
    _, err = command("run", file, "--input", x, "--output", y)
    assert (np.load(y)["out"].mean(), err) == (1.0, "")  # 0.5 reaches the threshold in each step
    _, err = command("run", file, "--input", x, "--output", y, "--dt", 1e-3)
    assert np.load(y)["out"].mean() < 1
    assert "warning: the file states dt=0.002, but is run with dt=0.001" in err
    _, err = command("run", file, "--input", x, "--output", y, "--like", "snntorch", "--dt", 2e-3)
    assert np.load(y)["out"].mean() == 0  # 0.5 is not above the threshold
    assert err.count("spike_when='above'") == 1


@pytest.mark.parametrize("options", [(), ("--dt", 1e-3)])
def test_verify_warns_once(file: Path, options: Any, recwarn: pytest.WarningsRecorder) -> None:
    _, err = command("verify", file, "--steps", 3, "--batch", 2, *options)
    assert err.count("the file states dt=0.002, but is run with dt=0.001") == (1 if options else 0)
    assert not recwarn.list


def test_check_names_malformed_metadata(tmp_path: Path) -> None:
    metadata = {"neurocuda": {"format": 1, "discretization": {"dt": 1e-3, "colour": "red"}}}
    write_raw(chain({"n": node("LIF")}, metadata=metadata), tmp_path / "a.nir")
    out, _ = command("check", tmp_path / "a.nir", code=1)
    assert "problem: metadata, field 'discretization': expected one of the fields clamp, " in out
    out, _ = command("check", tmp_path / "a.nir", "--json", code=1)
    (problem,) = json.loads(out)["problems"]
    assert (problem["where"], problem["kind"]) == ("metadata", "GraphError")
    for words in (("info",), ("run", "--input", "x.npy"), ("verify",)):
        _, err = command(words[0], tmp_path / "a.nir", *words[1:], code=1)
        assert "found a field 'colour'" in err
