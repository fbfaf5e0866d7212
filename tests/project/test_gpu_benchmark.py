"""The benchmark for GPUs, as far as it goes without one: cases, bytes, results as JSON and plot, and every candidate
on the CPU.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from places import ROOT
from rich.console import Console

from benchmarks import frameworks, gpu
from benchmarks.frameworks import floors, plain
from benchmarks.on_gpu import candidates, measurements, operators, rows
from benchmarks.on_gpu.cases import MOST, NeuronCase, neuron_cases, recurrent_cases, residual_cases
from benchmarks.on_gpu.clock import Bench, Events
from benchmarks.on_gpu.measurements import Measurement
from benchmarks.on_gpu.moved import BITS, H100, TYPES, bytes_per_step, seconds
from benchmarks.problem import Candidate, Problem
from benchmarks.timing import side_by_side
from neurocuda import from_nir

STATED = {
    (("fp32",), "fp32"): 8,
    (("fp32",), "uint8"): 5,
    (("fp16",), "fp16"): 4,
    (("fp16",), "uint8"): 3,
    (("fp16",), BITS): 2.125,
    (("fp32", "fp32"), "fp32"): 12,
}
"""Bytes of a neuron-step, as the design states them."""


@pytest.mark.parametrize("signals", STATED)
def test_bytes_are_those_of_the_design(signals: tuple[tuple[str, ...], str]) -> None:
    assert bytes_per_step(*signals) == STATED[signals]


def test_an_unfused_residual_takes_twenty_bytes() -> None:
    fused, unfused = (NeuronCase(8, 1, "fp32", "fp32", 2, how) for how in (True, False))
    assert (fused.per_step, unfused.per_step) == (12, 20)
    assert [round(H100 / bytes_per_step([i], o) / 1e9) for i, o in (("fp32", "fp32"), ("fp16", BITS))] == [419, 1576]
    assert seconds(H100) == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_bytes_are_those_of_the_kernels(tmp_path: Path) -> None:
    """Every case of the tables, against the traits that the CUDA kernels are written with."""
    names = {"fp32": "kFloat32", "fp16": "kFloat16", "bf16": "kBFloat16", "uint8": "kUInt8", "bool": "kBool"}
    kinds = {(c.input, c.output, c.branches) for c in (*neuron_cases(), *residual_cases()) if c.fused}
    lines = []
    for given, output, branches in sorted(kinds):
        to = names["uint8" if output == BITS else output]
        packed = "true" if output == BITS else "false"
        traits = f"NeuronTraits<Element::{names[given]}, Element::{to}, {packed}, {branches}>"
        lines.append(f'std::printf("{given} {output} {branches} %.17g\\n", {traits}::kBytesPerStep);')
    source = tmp_path / "bytes.cpp"
    source.write_text(
        '#include <cstdio>\n#include "cuda/neuron_traits.h"\nusing namespace neurocuda;\nusing namespace '
        "neurocuda::cuda;\nint main() {\n" + "\n".join(lines) + "\n}\n"
    )
    program = tmp_path / "bytes"
    subprocess.run(["g++", "-std=c++17", f"-I{ROOT / 'csrc'}", source, "-o", program], check=True)
    told = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(told) == len(kinds)
    for line in told:
        given, output, branches, amount = line.split()
        assert bytes_per_step([given] * int(branches), output) == float(amount), line


def test_the_tables_hold_all_sizes_types_and_outputs() -> None:
    cases = list(neuron_cases())
    assert {c.neurons for c in cases} == {2**n for n in range(12, 27, 2)}
    assert {c.steps for c in cases} == {1, 8, 64, 512}
    assert {c.input for c in cases} == set(TYPES)
    assert {c.output for c in cases} == {*TYPES, BITS}
    assert max(c.neuron_steps for c in cases) == MOST
    assert len({c.name for c in cases}) == len(cases) == 14 * (8 * 4 - 3)
    assert {c.fused for c in residual_cases()} == {True, False}
    assert {c.batch for c in recurrent_cases()} == {1, 16, 64, 256, 1024}
    assert max(c.neurons for c in recurrent_cases()) == 1024
    assert {"digits", "braille", "cnn", "resnet18", "resnet34"} < rows.rows().keys() == rows.rows(quick=True).keys()


def test_a_network_moves_what_its_populations_and_layers_move() -> None:
    graph = from_nir(rows.rows(quick=True)["lif-2^14"].graph(Path()))
    assert rows.neuron_steps(graph, 4, 3) == 4 * 3 * 1024
    assert rows.bytes_of(graph, 4, 3) == 4 * 3 * 1024 * 8 + 3 * 1024 * 8
    assert rows.products_of(graph, 4, 3) == 0
    digits = from_nir(rows.rows()["digits"].graph(Path()))
    assert rows.products_of(digits, 2, 3) == 6 * sum(
        rows.multiply_adds(node) for node in digits.nodes.values() if "weight" in node.parameters
    )
    residual = rows.bytes_of(digits, 1, 1)
    assert residual > 4 * sum(n.array("weight").size for n in digits.nodes.values() if "weight" in n.parameters)


@pytest.fixture
def bench() -> Bench:
    return Bench(torch.device("cpu"), repeats=1, copied=2**16)


@pytest.mark.slow
def test_every_type_and_output_runs_and_agrees(bench: Bench) -> None:
    cases = [replace(c, neurons=4096, steps=5) for c in (*neuron_cases(quick=True), *residual_cases(quick=True))]
    for case in dict.fromkeys(cases):
        for m in operators.measure(case, bench):
            assert m.results == "equal", m
            assert m.bytes == case.bytes
            assert m.percent_of_copy is not None
            assert m.kind == "ours"


@pytest.mark.slow
def test_recurrent_populations_agree_bit_for_bit(bench: Bench) -> None:
    for case in recurrent_cases(quick=True):
        found = list(operators.measure(case, bench))
        assert [m.results for m in found] == ["equal"] * len(found), found
        assert "plain torch, stepped" in {m.candidate for m in found}


def test_what_differs_is_named_and_not_timed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = next(iter(operators.served(bench.device).values()), None)
    if ours is None:
        pytest.skip("no operators but the reference")

    def wrong(*args: object, **kwargs: object) -> tuple[object, ...]:
        output, state, traces = ours.neuron(*args, **kwargs)
        output[3, 0, 4000] = 1 - output[3, 0, 4000]
        return output, state, traces

    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("asked for")

    broken = {"wrong": SimpleNamespace(neuron=wrong), "failing": SimpleNamespace(neuron=fails)}
    monkeypatch.setattr(operators, "served", lambda device: broken)
    monkeypatch.setattr(operators, "COMPARED", 1024 * 8)
    first, second = operators.measure(NeuronCase(4096, 8, "fp32", "fp32"), bench)
    assert first.results == "differs from the reference in neurons 3072 to 4095"
    assert second.results == "failed: RuntimeError: asked for"
    assert first.median_ms is second.median_ms is None
    assert first.steps_per_second is first.percent_of_copy is None


def lean(problem: Problem) -> Iterator[Candidate]:
    return (c for c in (*plain.candidates(problem), *floors.candidates(problem)) if c.kind != "compiled")


@pytest.mark.parametrize("name", ["digits", "step-digits", "lif-2^14"])
def test_networks_are_compared_and_timed(name: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "available", lambda: ({"plain": lean}, {"nobody": "not installed"}))
    ours = candidates.ours
    monkeypatch.setattr(candidates, "ours", lambda problem: [c for c in ours(problem) if "compile" not in c.name])
    with torch.no_grad():
        found = list(candidates.measure(rows.rows(quick=True)[name].problem(Path()), bench))
    assert {"neurocuda, eager", "plain torch, stepped"} <= {m.candidate for m in found}
    for m in found:
        assert m.results.startswith("equal") or m.kind == "floor", m
        assert m.median_ms is not None


@pytest.mark.slow
def test_a_round_waits_for_no_candidate() -> None:
    """All are queued before the first time is asked for, each after the caches were flushed, in some order."""
    said: list[str] = []

    class Noting:
        def prepare(self) -> None:
            said.append("flush")

        def mark(self) -> int:
            said.append("mark")
            return len(said)

        def milliseconds(self, begin: int, end: int) -> float:
            said.append("ask")
            return float(end - begin)

    repeats = 7
    times = side_by_side({name: lambda name=name: said.append(name) for name in "abc"}, repeats, Noting())
    rounds = [said[start : start + 15] for start in range(0, len(said), 15)]
    assert len(rounds) == repeats + 1
    for found in rounds:
        names = found[2:12:4]
        assert sorted(names) == ["a", "b", "c"]
        assert found == [word for name in names for word in ("flush", "mark", name, "mark")] + ["ask"] * 3
    assert len({tuple(found) for found in rounds}) > 3, "no candidate always comes after the same one"
    assert {name: t.median for name, t in times.items()} == dict.fromkeys("abc", 2)


@pytest.mark.parametrize("ahead", [True, False])
def test_events_time_what_is_queued_on_the_current_stream(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is kept waiting, or is idle, when the first of two events is queued."""

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.at = 0

        def record(self, stream: list[str]) -> None:
            stream.append("event")
            self.at = len(stream)

        def synchronize(self) -> None:
            self.done = True

        def elapsed_time(self, end: Event) -> float:
            assert end.done
            return float(end.at - self.at)

    stream: list[str] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: stream.append("wait"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: stream.append("idle"))
    clock = Events(torch.device("cpu"), ahead)
    clock.prepare()
    begin, end = clock.mark(), clock.mark()
    assert clock.milliseconds(begin, end) == 1
    assert stream == ["wait" if ahead else "idle", "event", "event"]
    assert not clock.flushed.any()


MACHINE = {"gpu": "SYNTHETIC, no measurement", "driver": "0", "cuda": "0", "date": "never", "commit": "none"}


def synthetic() -> list[Measurement]:
    """Numbers made up for this test: 80 % of a copy at 1 TB/s."""
    found = []
    for case in (*neuron_cases(quick=True), *residual_cases(quick=True), *recurrent_cases(quick=True)):
        for candidate, kind, share in (("neurocuda, x", "ours", 0.8), ("plain torch, stepped", "torch", 0.1)):
            ms = case.bytes / (share * 1e12) * 1e3
            found.append(
                Measurement(
                    case.group, case.name, candidate, kind, case.neurons, case.batch, case.steps, case.neuron_steps,
                    case.input, case.output, case.per_step, case.bytes, ms, ms, ms, 3, 1e12, None, "equal",
                )
            )  # fmt: skip
    network = replace(found[0], group="network", case="A network", bytes=None, bytes_per_step=None)
    return [*found, network, replace(network, median_ms=None, fastest_ms=None, slowest_ms=None, results="failed")]


def test_results_come_back_from_json_and_are_drawn(tmp_path: Path) -> None:
    roofline = pytest.importorskip("benchmarks.on_gpu.roofline")
    path = tmp_path / "synthetic.json"
    measurements.write(path, MACHINE, synthetic())
    found, machine = measurements.read(path)
    assert machine == MACHINE
    assert found == synthetic()
    assert found[0].percent_of_copy == pytest.approx(80)
    content = json.loads(path.read_text())
    assert content["schema"] == measurements.SCHEMA
    line = content["measurements"][0]
    assert line["percent_of_copy_bandwidth"] == pytest.approx(80)
    assert line["giga_neuron_steps_per_second"] == pytest.approx(found[0].neuron_steps / found[0].median_ms / 1e6)
    picture = roofline.draw(path)
    assert picture == tmp_path / "synthetic.png"
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schema": 0}, "expected schema 1, found 0"),
        ({"measurements": [{"group": "neuron"}]}, "line 0: expected 'case', found none"),
        ({"neurons": "many"}, "'neurons': expected int, found 'many'"),
        ({"neurons": None}, "'neurons': expected int, found None"),
        ({"median_ms": True}, "'median_ms': .*found True"),
    ],
)
def test_a_json_of_another_form_is_refused(tmp_path: Path, content: dict[str, object], message: str) -> None:
    path = tmp_path / "other.json"
    measurements.write(path, MACHINE, synthetic()[:1])
    good = json.loads(path.read_text())
    if content.keys() <= good.keys():
        good |= content
    else:
        good["measurements"][0] |= content
    path.write_text(json.dumps(good))
    with pytest.raises(ValueError, match=message):
        measurements.read(path)


def test_without_a_gpu_bytes_and_floors_are_predicted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu", "--quick", "--paper", str(tmp_path)])
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    gpu.main()
    shown = capsys.readouterr().out
    assert "No NVIDIA GPU" in shown
    assert shown.count("PREDICTION, not a measurement") == 2
    assert shown.count("(prediction)") == 5
    assert "fp16 to bits" in shown
    assert "2.125" in shown
    assert "1576" in shown
    assert "ResNet-34" in shown
    assert not list(tmp_path.iterdir())


def test_a_case_without_memory_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def lines() -> Iterator[Measurement]:
        yield synthetic()[0]
        raise torch.OutOfMemoryError("CUDA out of memory\nmore")

    assert len(list(gpu._guarded(Console(), "large", lines()))) == 1
    assert "large: left out: CUDA out of memory" in capsys.readouterr().out
