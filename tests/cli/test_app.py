"""The `neurocuda` command: what it prints, what it writes, and how it exits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from commands import command
from nir_files import write_raw
from places import PAPER, ROOT

import neurocuda
from neurocuda import Discretization, Executor, State
from neurocuda.verify import trials

COLOUR = re.compile(r"\x1b\[[0-9;]*m")

needs_paper = pytest.mark.skipif(
    not PAPER.exists(), reason="the published graphs of the NIR paper are not beside this repository"
)


def spiking(size: int, **changes: Any) -> nir.LIF:
    fields = {"tau": 3e-4, "r": 2.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    return nir.LIF(**{name: np.broadcast_to(value, size).copy() for name, value in fields.items()})


def weights(out: int, size: int) -> nir.Linear:
    return nir.Linear(np.random.default_rng(out).normal(0.3, 0.5, (out, size)).astype(np.float32))


def write(path: Path, nodes: dict[str, Any], *edges: str) -> Path:
    """Write nodes and edges such as "a>b>c"; Input and Output nodes are given as sizes."""
    whole = {}
    for name, node in nodes.items():
        begins = any(edge.startswith(f"{name}>") for edge in edges)
        terminal = nir.Input if begins else nir.Output
        whole[name] = terminal(np.array([node])) if isinstance(node, int) else node
    pairs = [pair for edge in edges for pair in zip(edge.split(">"), edge.split(">")[1:], strict=False)]
    nir.write(str(path), nir.NIRGraph(whole, pairs, type_check=False))
    return path


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    nodes = {"input": 3, "fc": weights(4, 3), "lif": spiking(4), "output": 4}
    return write(tmp_path / "chain.nir", nodes, "input>fc>lif>output")


@pytest.fixture
def two_by_two(tmp_path: Path) -> Path:
    """Two Inputs and two Outputs with names that are awkward for NumPy's and rich's ways of taking them."""
    nodes = {
        "left": 3,
        "right": 2,
        "a:v": weights(4, 3),
        "b": weights(4, 2),
        "[red]": spiking(4),
        "file": 4,
        "lif.v": 4,
    }
    return write(tmp_path / "two.nir", nodes, "left>a:v>[red]>file", "right>b>[red]", "b>lif.v")


@pytest.fixture
def x(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 3, (300, 2, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    return tmp_path / "x.npy"


def loop(path: Path, *cycle: Any) -> Path:
    """input -> s -> output, with the nodes of `cycle` leading from s back to s."""
    nodes = {"input": 2, "s": nir.Scale(np.ones(2, np.float32)), "output": 2}
    names = [f"n{number}" for number in range(len(cycle))]
    return write(path, nodes | dict(zip(names, cycle, strict=True)), "input>s>output", ">".join(["s", *names, "s"]))


def test_version() -> None:
    assert command("--version") == (f"neurocuda {neurocuda.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--help"], ["info", "check", "run", "verify", "--version"]),
        (["run", "--help"], ["FILE", "--input X", "[T, B, *shape]", "--record NODE[:QUANTITY]", "sinabs", "--device"]),
        (["verify", "--help"], ["--steps T", "--batch B", "Exit code 0: equal bits"]),
    ],
)
def test_help(words: list[str], expected: list[str]) -> None:
    out, _ = command(*words, env={"COLUMNS": "100"})
    for part in expected:
        assert part in out
    assert not re.search(r"\w\.\.\.", out)


def test_the_module_is_the_command_also_where_the_encoding_is_poor(tmp_path: Path) -> None:
    nodes = {"input": 3, "ω": spiking(3), "output": 3}
    path = write(tmp_path / "omega.nir", nodes, "input>ω>output")
    words = [sys.executable, "-m", "neurocuda", "info", str(path)]
    env = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    assert "\\u03c9" in done.stdout
    assert done.stderr == ""


@needs_paper
def test_info_on_a_published_recurrent_graph() -> None:
    out, err = command("info", PAPER / "rnn/braille_noDelay_bias_zero.nir")
    assert err == ""
    assert "7 nodes, 7 edges\n" in out
    assert (
        "NIR version: 0.2.0\nLikely exporter: snntorch\nDiscretization (default): dt=0.0001, integrator=euler, " in out
    )
    lines = out.splitlines()
    assert "fc1         Affine   12     38      weight[38x12] -5.7..1.039, bias[38] -1.695..0.2515" in lines
    start = lines.index("Schedule")
    assert lines[start + 1].split("  ")[0] == "stage"
    assert [line for line in lines[start:] if line.startswith("2 cycle  lif1.lif ") and "fc1 + lif1.w_rec" in line]
    assert [line for line in lines[start:] if line.startswith("2 cycle  lif1.w_rec ") and " lif1.lif* " in line]
    assert "Delayed edges: lif1.lif -> lif1.w_rec" in lines

    out, _ = command("info", PAPER / "rnn/braille_noDelay_bias_zero.nir", "--like", "norse", "--dt", "1e-4")
    assert "Delayed edges: lif1.w_rec -> lif1.lif" in out.splitlines()
    assert "feedback=weight-output" in out


@needs_paper
def test_info_says_what_is_probably_not_meant() -> None:
    out, _ = command("info", PAPER / "cnn/cnn_sinabs.nir")
    assert "Delayed edges: none" in out
    assert "Likely exporter: sinabs" in out
    assert "warning: IF '1', '10', '12' ...: one output spike takes" in out
    assert "warning" not in command("info", PAPER / "cnn/cnn_sinabs.nir", "--like", "sinabs")[0]


def test_like_auto_does_what_the_warning_requests(tmp_path: Path) -> None:
    slow = spiking(4, tau=np.float32(20), r=np.float32(1))
    affine = nir.Affine(np.full((4, 3), 1.0, np.float32), np.zeros(4, np.float32))
    path = write(tmp_path / "steps.nir", {"input": 3, "fc": affine, "lif": slow, "output": 4}, "input>fc>lif>output")
    np.save(tmp_path / "x.npy", np.ones((60, 1, 3), np.float32))
    run = ["run", path, "--input", tmp_path / "x.npy"]
    out, err = command(*run)
    assert "lif   LIF   4      0\n" in out
    assert err.count("warning") == 1
    assert "probably count time steps, as sinabs writes them: request Discretization.sinabs()" in err
    out, err = command(*run, "--like", "auto")
    assert err == ""
    assert "lif   LIF   4      0\n" not in out
    out, _ = command("info", path, "--like", "auto")
    assert "Likely exporter: sinabs\nDiscretization (auto): dt=1.0, integrator=exponential" in out
    assert "dt=0.5, integrator=exponential" in command("info", path, "--like", "auto", "--dt", "0.5")[0]
    assert "no warnings" in command("check", path, "--like", "auto")[0]
    command("verify", path, "--like", "auto")


def test_info_cuts_no_name(tmp_path: Path) -> None:
    name = "block" * 40
    path = write(tmp_path / "long.nir", {"input": 3, name: spiking(3), "output": 3}, f"input>{name}>output")
    out, _ = command("info", path, env={"COLUMNS": "100"})
    assert sum(line.startswith(name) for line in out.splitlines()) == 1
    assert "…" not in out
    assert not [line for line in out.splitlines() if line != line.rstrip()]

    terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}
    out = COLOUR.sub("", command("info", path, env=terminal)[0])
    lines = out.splitlines()
    table = lines[lines.index("Nodes") : lines.index("Delayed edges: none")]
    assert max(map(len, table)) == 100
    assert "…" not in out
    starts = re.findall(r"^\S+", "\n".join(table[: table.index("Schedule")]), re.M)
    assert "".join(start for start in starts if set(start) <= set(name)) == name


def test_info_shows_the_nodes_of_a_graph_that_cannot_be_scheduled(tmp_path: Path) -> None:
    path = loop(tmp_path / "loop.nir", nir.Scale(np.ones(2, np.float32)))
    out, err = command("info", path, code=1)
    assert "n0      Scale   2      2       scale=1" in out.splitlines()
    assert "error: " in err
    assert "cycle of nodes 'n0' (Scale), 's' (Scale): expected a neuron" in err


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    nodes = {"input": 3, "a\x1b[31m\n": spiking(3), "[bold]": spiking(3), "output": 3}
    path = write(tmp_path / "sly.nir", nodes, "input>a\x1b[31m\n>[bold]>output")
    out, _ = command("info", path)
    assert "\x1b" not in out
    assert "a\\x1b[31m" in out
    assert "[bold]" in out


BROKEN = {
    "nan.nir": ({"input": 2, "n": spiking(2, tau=np.array([np.nan, 1])), "output": 2}, "input>n>output"),
    "many.nir": (
        {"input": 2, "n": spiking(2, tau=-1.0), "m": spiking(3, r=np.inf), "output": 2},
        "input>n>m>outptu",
    ),
    "shape.nir": ({"input": 2, "fc": weights(4, 3), "output": 4}, "input>fc>output"),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nan.nir", [("node 'n'", "tau", "finite numbers or inf", "nan at index (0,)", "GraphError")]),
        (
            "many.nir",
            [
                (
                    "edge 'm' -> 'outptu' in the graph",
                    None,
                    "target 'outptu' to be a node (the nearest name is 'output')",
                    "no such node",
                    "GraphError",
                ),
                ("node 'm'", "r", "finite numbers", "inf at index (0,)", "GraphError"),
                ("node 'n'", "tau", "values > 0", "-1.0 at index (0,)", "GraphError"),
            ],
        ),
        (
            "shape.nir",
            [
                (
                    "edge 'input' -> 'fc'",
                    None,
                    "shape (3,), the input of Linear 'fc'",
                    "shape (2,), the output of Input 'input'",
                    "ShapeError",
                )
            ],
        ),
    ],
)
def test_check_names_every_problem(tmp_path: Path, name: str, expected: list[tuple[Any, ...]]) -> None:
    nodes, edges = BROKEN[name]
    path = write(tmp_path / name, nodes, edges)
    found = json.loads(command("check", path, "--json", code=1)[0])
    keys = ("where", "field", "expected", "found", "kind")
    problems = [dict(zip(keys, problem, strict=True)) for problem in expected]
    assert found == {"file": str(path), "ok": False, "problems": problems, "warnings": []}

    out, err = command("check", path, code=1)
    assert err == ""
    lines = out.splitlines()
    assert len(lines) == len(expected) + 1
    for line, (where, field, wanted, got, _) in zip(lines, expected, strict=False):
        place = where if field is None else f"{where}, field {field!r}"
        assert line == f"problem: {place}: expected {wanted}, found {got}"
    assert lines[-1] == f"{path}: {len(expected)} problem{'s' * (len(expected) > 1)}, no warnings"


@needs_paper
def test_check_names_a_published_dangling_edge() -> None:
    path = PAPER / "rnn/broken_dangling_edge.nir"
    out, _ = command("check", path, code=1)
    assert "edge 'input' -> 'lif' in graph 'lif1'" in out
    assert "the nearest name is 'lif1'" in out
    assert out.splitlines()[-1] == f"{path}: 4 problems, no warnings"
    found = json.loads(command("check", path, "--json", code=1)[0])
    assert not found["ok"]
    assert [problem["where"] for problem in found["problems"]] == [
        f"edge {edge} in graph 'lif1'"
        for edge in ("'input' -> 'lif'", "'lif' -> 'lin'", "'lif' -> 'output'", "'lin' -> 'lif'")
    ]
    assert all("the nearest name is 'lif1'" in problem["expected"] for problem in found["problems"])
    _, err = command("info", path, code=1)
    assert "broken_dangling_edge.nir: edge 'input' -> 'lif' in graph 'lif1'" in err


def test_check_of_a_graph_that_is_fine(chain: Path) -> None:
    assert command("check", chain) == (f"{chain}: no problems, no warnings\n", "")
    found = json.loads(command("check", chain, "--json")[0])
    assert found == {"file": str(chain), "ok": True, "problems": [], "warnings": []}
    found = json.loads(command("check", chain, "--json", "--dt", "1e-3")[0])
    assert found["ok"]
    assert len(found["warnings"]) == 1
    assert "tau = 0.0003 s is shorter than dt = 0.001 s" in found["warnings"][0]


SCALE, ONES = nir.Scale(np.ones(2, np.float32)), np.ones(2, np.float32)
AS_ASKED: dict[str, tuple[list[Any], list[str], list[tuple[str, str | None, str]]]] = {
    "a cycle without state": (
        [SCALE, SCALE],
        [],
        [("cycle of nodes 'n0' (Scale), 'n1' (Scale), 's' (Scale)", None, "AlgebraicLoopError")],
    ),
    "a cycle that one convention breaks": ([nir.Threshold(ONES)], [], []),
    "and the other does not": (
        [nir.Threshold(ONES)],
        ["--like", "norse"],
        [("cycle of nodes 'n0' (Threshold), 's' (Scale)", None, "AlgebraicLoopError")],
    ),
    "a delay shorter than a step": (
        [nir.Delay(ONES)],
        ["--dt", "3", "--like", "norse"],
        [("cycle of nodes 'n0' (Delay), 's' (Scale)", None, "AlgebraicLoopError")],
    ),
    "a delay of too many steps": ([nir.Delay(ONES * 1e6)], ["--dt", "1e-9"], [("node 'n0'", "delay", "GraphError")]),
    "thresholds that many spikes cannot have": (
        [spiking(2, v_threshold=0.0), spiking(2, v_threshold=np.array([1.0, -2.0]))],
        ["--like", "sinabs"],
        [("node 'n0'", "v_threshold", "GraphError"), ("node 'n1'", "v_threshold", "GraphError")],
    ),
    "a coefficient beyond float32": (
        [spiking(2, r=1e300)],
        [],
        [("node 'n0', coefficient 'gain_v'", None, "GraphError")],
    ),
    "a delay of too many steps, and a coefficient": (
        [nir.Delay(ONES * 1e6), nir.IF(*(np.full(2, value) for value in (1e300, 1.0, 0.0)))],
        ["--dt", "1e-9"],
        [("node 'n0'", "delay", "GraphError"), ("node 'n1', coefficient 'gain_v'", None, "GraphError")],
    ),
    "a weight beyond float32": (
        [nir.Linear(np.full((2, 2), 1e300)), spiking(2)],
        [],
        [("node 'n0'", "weight", "GraphError")],
    ),
}


@pytest.mark.parametrize("case", AS_ASKED)
def test_check_names_what_keeps_a_sound_graph_from_running(tmp_path: Path, case: str) -> None:
    cycle, options, expected = AS_ASKED[case]
    path = loop(tmp_path / "loop.nir", *cycle)
    out, _ = command("check", path, "--json", *options, code=1 if expected else 0)
    problems = json.loads(out)["problems"]
    assert [(problem["where"], problem["field"], problem["kind"]) for problem in problems] == expected
    assert all(problem["expected"] and problem["found"] for problem in problems)
    text, _ = command("check", path, *options, code=1 if expected else 0)
    assert [line.split(":")[0] for line in text.splitlines()].count("problem") == len(expected)


def test_check_of_a_file_that_is_not_nir(tmp_path: Path) -> None:
    path = tmp_path / "notes.nir"
    path.write_text("not HDF5")
    out, err = command("check", path, code=2)
    assert out == ""
    assert err.startswith(f"error: {path}: expected an HDF5 file (NIR), found another type of file")
    found = json.loads(command("check", path, "--json", code=2)[0])
    assert (found["ok"], found["problems"][0]["kind"]) == (False, "FileError")
    assert "expected an HDF5 file" in found["problems"][0]["found"]
    assert "no such file" in command("check", tmp_path / "none.nir", code=2)[1]


def test_run_gives_what_the_python_api_gives(chain: Path, x: Path, tmp_path: Path) -> None:
    target = tmp_path / "y.npz"
    words = ["--record", "lif:v", "--record", "lif", "--record", "fc:input", "--output", target, "--dt", "2e-4"]
    out, err = command("run", chain, "--input", x, "--device", "cpu", *words)
    assert err == ""
    net = neurocuda.load(chain, Discretization(dt=2e-4))
    result = net.run(torch.from_numpy(np.load(x)), record={"lif": ("v", "output"), "fc": "input"})
    assert isinstance(result.output, torch.Tensor)
    with np.load(target) as written:
        assert written.files == ["output", "lif.v", "lif.output", "fc.input"]
        assert all(written[name].dtype == np.float32 for name in written.files)
        assert np.array_equal(written["output"], result.output.detach().numpy())
        for node, quantity in (("lif", "v"), ("lif", "output"), ("fc", "input")):
            assert np.array_equal(written[f"{node}.{quantity}"], result.recordings[node][quantity].detach().numpy())
        rate = float(written["output"].mean())
    assert 0.05 < rate < 1
    assert re.search(rf"^lif   LIF   4      {rate:.6g}$", out, re.M)
    assert re.search(r"^lif\.v       \(300, 2, 4\)  ", out, re.M)
    assert out.splitlines()[-1].startswith("300 steps of 2 samples in ")
    assert out.splitlines()[-1].endswith(f" s on cpu; written to {target}")


def test_run_without_output_prints_the_summary_only(chain: Path, x: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    out, _ = command("run", chain, "--input", x)
    assert "spikes per neuron and step" in out
    assert "written" not in out
    assert sorted(tmp_path.iterdir()) == before


def test_run_with_several_inputs_and_outputs(two_by_two: Path, tmp_path: Path) -> None:
    numbers = np.random.default_rng(1)
    left, right = numbers.integers(0, 2, (9, 3, 3), dtype=np.uint8), numbers.random((9, 3, 2)) > 0.5
    np.savez(tmp_path / "x.npz", left=left, right=right)
    words = ["--record", "a:v", "--record", "[red]:spikes", "--output", tmp_path / "y.npz"]
    out, _ = command("run", two_by_two, "--input", tmp_path / "x.npz", *words)
    assert "[red]" in out
    signals = {"left": torch.from_numpy(left), "right": torch.from_numpy(right)}
    result = neurocuda.load(two_by_two).run(signals, record={"a:v": "output", "[red]": "spikes"})
    assert isinstance(result.output, dict)
    with np.load(tmp_path / "y.npz") as written:
        assert set(written.files) == {"file", "lif.v", "a:v.output", "[red].spikes"}
        for name, output in result.output.items():
            assert np.array_equal(written[name], output.detach().numpy())
        assert np.array_equal(written["a:v.output"], result.recordings["a:v"]["output"].detach().numpy())


@pytest.mark.parametrize(
    ("dtype", "add", "note"),
    [
        (np.float64, 0.0, None),
        (np.int64, 0, None),
        (np.uint8, 0, None),
        (np.float16, 0.5, None),
        (">f4", 0.5, None),
        (np.float64, 0.1, "float64 to float32, which changes 30 of 30 values"),
        (np.int32, 2**24 + 1, "int32 to float32, which changes 30 of 30 values"),
    ],
)
def test_run_says_where_it_rounds(chain: Path, tmp_path: Path, dtype: Any, add: float, note: str | None) -> None:
    values = (np.zeros((5, 2, 3)) + add).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    words = ["--record", "input", "--output", tmp_path / "y.npz"]
    _, err = command("run", chain, "--input", tmp_path / "x.npy", *words)
    assert err == ("" if note is None else f"note: {tmp_path / 'x.npy'}, input 'input': rounded from {note}\n")
    with np.load(tmp_path / "y.npz") as written:
        assert np.array_equal(written["input.output"], values.astype(np.float32))


def test_run_over_no_steps(chain: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((0, 2, 3), np.float32))
    out, _ = command("run", chain, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npz")
    assert "no steps of 2 samples" in out
    with np.load(tmp_path / "y.npz") as written:
        assert written["output"].shape == (0, 2, 4)


def test_files_of_other_tools_given_as_input_are_named(chain: Path, tmp_path: Path) -> None:
    torch.save(torch.zeros(5, 2, 3), tmp_path / "x.pt")
    (tmp_path / "x.bin").write_bytes(bytes(range(250)) * 2)
    for name, found in (
        ("x.pt", "a PyTorch archive (torch.save)"),
        ("x.bin", "a file of raw bytes (.bin, perhaps 100 events as in N-MNIST); bin its events into frames [T, B, "),
    ):
        _, err = command("run", chain, "--input", tmp_path / name, code=2)
        assert f"{name}: expected an .npy or .npz file, found {found}" in err


def test_outputs_that_the_nir_package_added_are_explained(tmp_path: Path) -> None:
    nodes = {
        "input": nir.Input(np.array([3])),
        "fc": weights(4, 3),
        "lif": spiking(4),
        "output": nir.Output(np.array([4])),
    }
    edges = [("input", "fc"), ("fc", "lif"), ("lif", "output"), ("input", "gain")]
    whole = nir.NIRGraph({**nodes, "gain": nir.Scale(np.ones(3))}, edges)  # the type check adds an Output
    nir.write(str(tmp_path / "two.nir"), whole)
    out, _ = command("info", tmp_path / "two.nir")
    note = "note: Output 'output_gain' was added to node 'gain', which has no other outgoing edge: the nir package adds"
    assert [line[: len(note)] for line in out.splitlines() if line.startswith("note")] == [note]


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


BAD_INPUTS: dict[str, tuple[Any, str]] = {
    "rank": (zeros(5, 2), "x, input 'input': expected [T, B, 3], found shape (5, 2)"),
    "size": (zeros(5, 2, 4), "expected [T, B, 3], found shape (5, 2, 4)"),
    "no batch": (zeros(5, 3), "found shape (5, 3); one sample without a batch axis needs x[:, None]"),
    "NaN": (zeros(5, 2, 3) + np.nan, "x, input 'input': expected finite float32 numbers, found nan at index (0, 0, 0)"),
    "beyond float32": (np.full((5, 2, 3), 1e300), "expected finite float32 numbers, found 1e+300 at index (0, 0, 0)"),
    "complex": (zeros(5, 2, 3) + 1j, "expected real numbers [T, B, 3], found complex64"),
    "words": (np.array(["a"]), "expected real numbers [T, B, 3], found <U1"),
    "objects": (np.array([{}]), "x: expected an .npy or .npz file, found one that cannot be read (Object arrays"),
    "unknown name": ({"inptu": zeros(5, 2, 3)}, "expected the inputs ['input'], found 'inptu' (the nearest name is"),
    "missing name": ({}, "expected the inputs ['input'], found none for ['input']"),
    "text": (b"1 2 3", "x: expected an .npy or .npz file, found another type of file"),
    "nothing": (b"", "x: expected an .npy or .npz file, found an empty file"),
    "damaged": (b"PK\x03\x04 and so on", "x: expected an .npy or .npz file, found one that cannot be read"),
    "none": (None, "x: expected an .npy or .npz file, found no such file"),
    "aedat": (b"#!AER-DAT2.0" + bytes(80), "found an AEDAT recording of events; bin its events into frames [T, B, *sh"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1", "found a Git LFS pointer in place of the file"),
    "events": (np.zeros(9, [("x", "i2"), ("t", "i8")]), "found a list of events with the fields x, t; bin the events"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_run_refuses_a_bad_input(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    content, expected = BAD_INPUTS[case]
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        Path("x").write_bytes(content)
    elif content is not None:
        with open("x", "wb") as file:
            if isinstance(content, dict):
                np.savez(file, **content)
            else:
                np.save(file, content)
    for words in (["run", chain, "--input", "x", "--output", "y.npz"], ["verify", chain, "--input", "x"]):
        out, err = command(*words, code=2)
        assert out == ""
        assert err.startswith("error: x")
        assert expected in err
    assert not Path("y.npz").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--like", "nest"], "preset: expected one of norse, snntorch, "),
        (["--dt", "0"], "discretization, field 'dt': expected seconds > 0, found 0.0"),
        (["--dt", "nan", "--like", "norse"], "discretization, field 'dt': expected seconds > 0, found nan"),
        (["--record", "lfi"], "--record: expected NODE or NODE:QUANTITY, found 'lfi' (the nearest name is 'lif')"),
        (["--record", "lfi:v"], "found 'lfi:v' (the nearest name is 'lif')"),
        (["--record", "fc:v"], "record, node 'fc': expected quantities of Linear ['input', 'output'], found 'v'"),
        (["--record", "lif:"], "record, node 'lif': expected quantities of LIF"),
        (["--device", "abacus"], "--device: expected cpu, cuda, cuda:1, ..., found 'abacus'"),
        (["--device", "cuda:99"], "--device: expected cpu or one of "),
        (["--device", "meta"], "--device: expected cpu or one of "),
        (["--output", "none/y.npz"], "none/y.npz: expected a folder to write in, found none"),
        (["--output", "."], ": expected a file to write, found a folder"),
        (["--output", os.devnull], ": expected a file to write, found a device"),
    ],
)
def test_run_refuses_bad_words(chain: Path, x: Path, words: list[str], expected: str) -> None:
    out, err = command("run", chain, "--input", x, *words, code=2)
    assert out == ""
    assert err.startswith("error: ")
    assert expected in err


def test_run_refuses_a_recording_with_the_name_of_an_output(two_by_two: Path, tmp_path: Path) -> None:
    nodes = {"input": 2, "lif": spiking(2), "lif.v": 2}
    path = write(tmp_path / "clash.nir", nodes, "input>lif>lif.v")
    np.save(tmp_path / "x.npy", zeros(4, 1, 2))
    _, err = command("run", path, "--input", tmp_path / "x.npy", "--record", "lif:v", code=2)
    assert "found 'lif:v' beside the Output 'lif.v'" in err
    _, err = command("run", two_by_two, "--input", tmp_path / "x.npy", code=2)
    assert "expected an .npz file with the inputs ['left', 'right'], found one array" in err
    np.savez(tmp_path / "x.npz", left=zeros(4, 1, 3), right=zeros(5, 1, 2))
    _, err = command("run", two_by_two, "--input", tmp_path / "x.npz", code=2)
    assert "input 'right': expected T, B = (4, 1) as in the first input, found (5, 1)" in err


def test_run_needs_an_input_and_a_graph(chain: Path, tmp_path: Path) -> None:
    assert "--input" in command("run", chain, code=2)[1]
    path = write(tmp_path / "nan.nir", *BROKEN["nan.nir"])
    np.save(tmp_path / "x.npy", zeros(4, 1, 2))
    _, err = command("run", path, "--input", tmp_path / "x.npy", code=1)
    assert err == f"error: {path}: node 'n', field 'tau': expected finite numbers or inf, found nan at index (0,)\n"


def test_run_says_what_is_probably_not_meant_on_stderr(chain: Path, x: Path) -> None:
    _, err = command("run", chain, "--input", x, "--dt", "1e-3")
    assert err.startswith("warning: node 'lif': tau = 0.0003 s is shorter than dt")


def test_a_failed_write_leaves_the_old_file_whole(chain: Path, x: Path, tmp_path: Path, monkeypatch: Any) -> None:
    target = tmp_path / "y.npz"
    target.write_bytes(b"precious")
    before = sorted(tmp_path.iterdir())
    real, calls = np.lib.format.write_array, []

    def fail(file: Any, array: np.ndarray, **options: Any) -> None:
        calls.append(array.shape)
        if len(calls) == 2:
            raise OSError("no space left")
        real(file, array, **options)

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    _, err = command("run", chain, "--input", x, "--record", "lif:v", "--output", target, code=2)
    assert err == f"error: {target}: expected to write 2 arrays, found no space left\n"
    assert target.read_bytes() == b"precious"
    assert sorted(tmp_path.iterdir()) == before


def test_verify_passes(two_by_two: Path, chain: Path, x: Path) -> None:
    out, err = command("verify", two_by_two, "--steps", "12", "--batch", "3")
    assert err == ""
    report, _, certificate = out.partition("\n\nCertificate\n")
    lines = report.splitlines()
    assert lines[0].startswith(f"{two_by_two}: 12 steps of 3 samples, ")
    assert lines[0].endswith(" values of 7 nodes compared in each trial")
    assert all(line.startswith("equal    ") for line in lines[1:-1])
    assert lines[-1] == f"{len(lines) - 2} trials: equal bits in all of them"
    assert " layers and pools are exact in any order" in certificate
    np.save(x, np.zeros((20, 2, 3)))
    out, _ = command("verify", chain, "--input", x)
    assert ": 20 steps of 2 samples, no spikes; " in out
    assert "Nothing fired: an --input that drives the graph proves more." in out


@needs_paper
def test_verify_passes_on_a_published_graph() -> None:
    path = PAPER / "rnn/braille_noDelay_bias_zero_nested.nir"
    out, _ = command("verify", path, "--steps", "8", "--batch", "2")
    assert "Nothing fired" not in out
    assert " trials: equal bits in all of them\n" in out
    assert out.splitlines()[-1].startswith("not exact, first node 'fc1' (Affine): more than 24 bits a weight, ")


def test_verify_names_the_first_difference(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty(Executor):
        def run(self, x: Any, state: State | None = None, record: Any = None) -> neurocuda.RunResult:
            result = super().run(x, state, record)
            if self.chunk == 7:
                result.recordings["lif"]["v"][9, 1, 2] = 0.25
                result.recordings["lif"]["output"][10, 1, 2] = 7
            return result

    monkeypatch.setattr(trials, "Executor", Faulty)
    out, _ = command("verify", chain, "--steps", "16", "--batch", "2", code=1)
    lines = out.partition("\n\nCertificate\n")[0].splitlines()
    at = lines.index("DIFFERS  in chunks of 7 steps")
    place = r" {9}first at node 'lif', 'v' at step 9, index \(1, 2\): \S+ \(0x\w{8}\) became 0\.25 \(0x3e800000\)"
    assert re.fullmatch(place, lines[at + 1])
    assert lines[-1] == f"{len(lines) - 3} trials: other bits in 1 of them"


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--steps", "0"], 2, "steps: expected an integer >= 1, found 0"),
        (["--batch", "-3"], 2, "batch: expected an integer >= 1, found -3"),
        (["--input", "x.npy", "--steps", "4"], 2, "expected --steps and --batch only without --input"),
        (["--like", "nest"], 2, "preset: expected one of "),
    ],
)
def test_verify_refuses_bad_words(chain: Path, words: list[str], code: int, expected: str) -> None:
    assert expected in command("verify", chain, *words, code=code)[1]


def test_raw_files_of_old_versions(tmp_path: Path) -> None:
    raw = {
        "type": "NIRGraph",
        "nodes": {
            "input": {"type": "Input", "shape": np.array([2])},
            "if": {"type": "IF", "r": np.ones(2), "v_threshold": np.ones(2)},
            "output": {"type": "Output", "shape": np.array([2])},
        },
        "edges": [("input", "if"), ("if", "output")],
    }
    write_raw(raw, tmp_path / "old.nir", version="0.1")
    out, _ = command("info", tmp_path / "old.nir")
    assert "NIR version: 0.1\n" in out
    assert "v_reset=0" in out


def test_info_tells_of_the_system(chain: Path) -> None:
    out, _ = command("info", "--system")
    assert out.startswith(f"neurocuda {neurocuda.__version__}, torch {torch.__version__}, ")
    assert "backend reference: available" in out.splitlines()
    for name, state in neurocuda.backends().items():
        assert f"backend {name}: {state}" in out.splitlines()
    both, _ = command("info", chain, "--system")
    assert both.startswith(out)
    assert "Schedule" in both
    _, err = command("info", code=2)
    assert "info: expected a FILE or --system, found neither" in err
