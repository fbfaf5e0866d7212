"""Results: one line for each candidate of each row, as a table on the screen and as a CSV."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """One candidate of one row; times are None where it was not run, and `results` then says why.

    Times are in `unit`: ms for a run, us for one step. `times_floor` and `times_ours` are the median over that of the
    row's lowest floor and of neurocuda. `peak_mib` is what a run takes at its peak, None where it was not measured.
    `over_time`: it runs its layers over many steps at once, and needs memory for them.
    """

    row: str
    title: str
    candidate: str
    kind: str
    unit: str
    median: float | None
    fastest: float | None
    slowest: float | None
    runs: int
    times_floor: float | None
    times_ours: float | None
    peak_mib: float | None
    over_time: bool
    results: str


COLUMNS = tuple(field.name for field in fields(Result))


def show(console: Console, results: Sequence[Result], heading: str, footing: str) -> None:
    """The table of one row."""
    unit = results[0].unit.replace("us", "µs a step")
    table = Table(title=heading, caption=footing, title_justify="left", caption_justify="left")
    table.add_column("")
    for name in (f"median {unit}", "fastest – slowest", "of floor", "of neurocuda", "peak MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("results")
    styles = {"ours": "bold", "floor": "dim"}
    for r in results:
        spread = "" if r.fastest is None or r.slowest is None else f"{_number(r.fastest)} – {_number(r.slowest)}"
        cells = [_number(r.median), spread, _times(r.times_floor), _times(r.times_ours), _number(r.peak_mib)]
        table.add_row(r.candidate, *cells, r.results, style=styles.get(r.kind))
    console.print(table)
    console.print()


def write(path: Path, results: Iterable[Result], machine: Mapping[str, str]) -> None:
    """All rows as a CSV, the machine repeated on each line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *machine], lineterminator="\n")
        writer.writeheader()
        for result in results:
            values = {name: _rounded(value) for name, value in asdict(result).items()}
            writer.writerow({**values, **machine})


def read(path: Path) -> tuple[list[Result], dict[str, str]]:
    """Reads a file of `write`: the results and the machine."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    machine = {name: value for name, value in lines[0].items() if name not in COLUMNS}
    return [_result(line) for line in lines], machine


def _result(line: Mapping[str, str]) -> Result:
    numbers = {
        name: float(line[name]) if line[name] else None
        for name in ("median", "fastest", "slowest", "times_floor", "times_ours", "peak_mib")
    }
    texts = {name: line[name] for name in ("row", "title", "candidate", "kind", "unit", "results")}
    values: dict[str, Any] = {**texts, **numbers}
    return Result(runs=int(line["runs"]), over_time=line["over_time"] == "True", **values)


def _rounded(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else value


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{_number(value)}×"
