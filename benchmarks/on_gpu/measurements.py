"""Measurements: one line for each candidate of each case, as JSON and on the screen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from rich.console import Console
from rich.table import Table

from benchmarks.timing import Times

SCHEMA = 1


@dataclass(frozen=True)
class Measurement:
    """One candidate of one case; times are None where it was not run, and `results` then says why.

    bytes: what the case must move at the least, from its types; None where that is not known. copy: bytes a second of
    a plain copy, measured in the same rounds. peak_mib: what a run takes at its peak, on top of its inputs.
    """

    group: str
    case: str
    candidate: str
    kind: str
    neurons: int
    batch: int
    steps: int
    neuron_steps: int
    input: str
    output: str
    bytes_per_step: float | None
    bytes: float | None
    median_ms: float | None
    fastest_ms: float | None
    slowest_ms: float | None
    runs: int
    copy: float | None
    peak_mib: float | None
    results: str

    @property
    def steps_per_second(self) -> float | None:
        return None if self.median_ms is None else self.neuron_steps / (self.median_ms * 1e-3)

    @property
    def percent_of_copy(self) -> float | None:
        """The minimum bytes over the time, in percent of the bandwidth of a copy."""
        if self.median_ms is None or self.bytes is None or self.copy is None:
            return None
        return 100 * self.bytes / (self.median_ms * 1e-3) / self.copy


def timed(times: Times | None) -> dict[str, float | None]:
    """The times as the fields of a measurement."""
    if times is None:
        return {"median_ms": None, "fastest_ms": None, "slowest_ms": None}
    return {"median_ms": times.median, "fastest_ms": times.fastest, "slowest_ms": times.slowest}


def write(path: Path, machine: Mapping[str, str], measurements: Sequence[Measurement]) -> None:
    """All measurements with their derived figures, so that the file can be read without this code."""
    lines = []
    for m in measurements:
        speed, share = m.steps_per_second, m.percent_of_copy
        follows = {
            "giga_neuron_steps_per_second": None if speed is None else speed / 1e9,
            "percent_of_copy_bandwidth": share,
        }
        lines.append(asdict(m) | follows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": SCHEMA, "machine": dict(machine), "measurements": lines}, indent=1) + "\n")


def read(path: Path) -> tuple[list[Measurement], dict[str, str]]:
    """Reads a file of `write`: the measurements and the machine. Raises ValueError, which names the invalid field."""
    content = json.loads(path.read_text())
    if content.get("schema") != SCHEMA:
        raise ValueError(f"{path}: expected schema {SCHEMA}, found {content.get('schema')!r}")
    lines = content["measurements"]
    return [_measurement(line, f"{path}, line {n}") for n, line in enumerate(lines)], content["machine"]


def _measurement(line: Mapping[str, Any], where: str) -> Measurement:
    values: dict[str, Any] = {}
    for name, expected in get_type_hints(Measurement).items():
        if name not in line:
            raise ValueError(f"{where}: expected {name!r}, found none")
        value = line[name]
        fitting = (expected,) if expected in (str, int) else (int, float, type(None))
        if type(value) not in fitting:
            raise ValueError(f"{where}, {name!r}: expected {getattr(expected, '__name__', expected)}, found {value!r}")
        values[name] = value
    return Measurement(**values)


def show(console: Console, title: str, found: Sequence[Measurement]) -> None:
    """A table of one group."""
    table = Table(title=title, title_justify="left")
    table.add_column("case")
    table.add_column("candidate")
    for name in ("median µs", "fastest – slowest", "G neuron-steps/s", "% of copy", "copy GB/s", "peak MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("results")
    last = None
    for m in found:
        speed = m.steps_per_second
        spread = "" if m.fastest_ms is None or m.slowest_ms is None else f"{_us(m.fastest_ms)} – {_us(m.slowest_ms)}"
        cells = [
            _us(m.median_ms),
            spread,
            _number(None if speed is None else speed / 1e9),
            _number(m.percent_of_copy),
            _number(None if m.copy is None else m.copy / 1e9),
            _number(m.peak_mib),
        ]
        style = "bold" if m.kind == "ours" else None
        table.add_row(m.case if m.case != last else "", m.candidate, *cells, m.results, style=style)
        last = m.case
    console.print(table)
    console.print()


def _us(milliseconds: float | None) -> str:
    return _number(None if milliseconds is None else milliseconds * 1e3)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
