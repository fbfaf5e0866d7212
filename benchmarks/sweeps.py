"""Cost over the amount of work: neurons, time steps, batch, density of events, threads.

python -m benchmarks.sweeps [--sweeps neurons,steps] [--repeats 5] [--quick] [--output sweeps.csv]

Each sweep is a line of problems that differ in one number. At each, NeuroCUDA runs beside the fastest ways of the large
comparison (`benchmarks.peers`), in turns, after their results were compared. Writes a CSV and a plot: time for one unit
of work over the number, so that a level line is cost that grows as the work does.
"""

import argparse
import csv
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nir
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import frameworks, machine, networks
from benchmarks.agreement import Truth, verdict
from benchmarks.problem import Candidate, Problem
from benchmarks.sweep_plot import draw
from benchmarks.timing import side_by_side
from benchmarks.workloads import DT, PAPER, lif_graph, problem, quantized, resnet_graph, seeded
from neurocuda import Discretization, NeuroCUDAWarning

RESULTS = Path(__file__).with_name("results") / "sweeps.csv"
BESIDE = ("plain torch, layer by layer", "plain torch, stepped", "Norse, layer by layer", "sinabs, layer by layer")
"""The peers of `benchmarks.peers` that run here: the fastest that compile nothing."""

STEPPED_UP_TO = 1000
"""Most time steps for candidates that loop over time in Python."""


@dataclass(frozen=True)
class Sweep:
    """Problems by the number that they differ in; `unit` is what one of `work` is called.

    threads: how many are tried. With more than one, the same problem tells strong scaling, and a larger one weak.
    """

    name: str
    number: str
    values: tuple[float, ...]
    build: Callable[[float], Problem]
    work: Callable[[Problem], float]
    unit: str
    threads: tuple[int, ...] = (1,)


def neuron_steps(p: Problem) -> float:
    return p.x.numel()


def frames(p: Problem) -> float:
    return p.steps * p.batch


def population(count: float) -> Problem:
    x = torch.rand(10, 1, int(count), generator=seeded()) * 0.36
    return problem("lif", "LIF alone", lif_graph(int(count)), Discretization(dt=DT), x, networks.lif, separate=True)


def cnn(row: str, graph: nir.NIRGraph, steps: int, batch: int, density: float) -> Problem:
    x = (torch.rand(steps, batch, 2, 34, 34, generator=seeded()) < density).float()
    return problem(row, "N-MNIST CNN of the paper", graph, Discretization(dt=1.0), x, networks.paper_cnn)


def resnet(batch: float) -> Problem:
    x = (torch.rand(8, int(batch), 3, 32, 32, generator=seeded(1)) < 0.3).float()
    return problem("resnet", "ResNet-18", resnet_graph(), Discretization(dt=DT), x, networks.resnet18)


def sweeps(paper: Path) -> dict[str, Sweep]:
    """All of them by name; those of the paper's network where its file is."""
    found = {
        "neurons": Sweep(
            "LIF alone, T = 10", "neurons", (1e3, 1e4, 1e5, 1e6, 1e7), population, neuron_steps, "neuron and step"
        ),
        "batch": Sweep("ResNet-18, T = 8", "samples", (1, 4, 16, 64), resnet, frames, "frame", (1, 2)),
    }
    file = paper / "cnn" / "cnn_sinabs.nir"
    if not file.exists():
        return found
    graph = nir.read(file, type_check=False)
    by_steps, by_density, few_bits = (
        lambda n: cnn("cnn", graph, int(n), 4, 0.02),
        lambda share: cnn("cnn", graph, 100, 4, share),
        lambda share: cnn("cnn-8bit", quantized(graph, Discretization(dt=1.0)), 100, 4, share),
    )
    shares = (0.001, 0.01, 0.03, 0.1, 0.3)
    title = "N-MNIST CNN of the paper, "
    return found | {
        "steps": Sweep(f"{title}B = 4, 2 % events", "steps", (10, 100, 300, 1000, 3000), by_steps, frames, "frame"),
        "density": Sweep(f"{title}T = 100, B = 4", "share of events", shares, by_density, frames, "frame"),
        "density-8bit": Sweep(f"{title}8-bit weights", "share of events", shares, few_bits, frames, "frame"),
    }


def main() -> None:
    arguments = _arguments()
    warnings.simplefilter("ignore", NeuroCUDAWarning)
    torch.set_num_threads(1)
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    described = machine.describe(1)
    del described["threads"]
    for name, value in described.items():
        console.print(f"[dim]{name}: {value}[/dim]")
    tools, missing = frameworks.available()
    for name, why in missing.items():
        console.print(f"{name} is left out: {why}")
    rows: list[dict[str, object]] = []
    with torch.no_grad():
        for key in arguments.sweeps:
            sweep = sweeps(arguments.paper)[key]
            values = sweep.values[:2] if arguments.quick else sweep.values
            for value in values:
                p = sweep.build(value)
                wanted = [c for tool in tools.values() for c in tool(p) if _is_run(c, p)]
                rows += _measured(console, key, sweep, value, p, wanted, arguments)
            _show(console, sweep, [row for row in rows if row["sweep"] == key])
            if not arguments.quick:
                _write(arguments.output, rows, described)
                console.print(f"{arguments.output} and {draw(arguments.output)} written")


def _is_run(candidate: Candidate, p: Problem) -> bool:
    stepped = candidate.name.endswith("stepped")
    if stepped and p.steps > STEPPED_UP_TO:
        return False
    return candidate.kind == "ours" or candidate.name in BESIDE


def _measured(
    console: Console,
    key: str,
    sweep: Sweep,
    value: float,
    p: Problem,
    candidates: list[Candidate],
    arguments: argparse.Namespace,
) -> list[dict[str, object]]:
    """A line for each candidate and number of threads."""
    truths: dict[Discretization, Truth] = {}
    runners = {}
    for candidate in candidates:
        with console.status(f"{sweep.name}, {value:g} {sweep.number}: {candidate.name}"):
            runner = candidate.build(p)
            equal, text = verdict(p, runner, truths)
        if equal:
            runners[candidate.name] = runner
        else:
            console.print(f"{sweep.name}, {value:g} {sweep.number}: {candidate.name} is left out: {text}")
    truths.clear()
    found: list[dict[str, object]] = []
    for threads in sweep.threads:
        torch.set_num_threads(threads)
        times = side_by_side({name: runner.run for name, runner in runners.items()}, arguments.repeats)
        for candidate in candidates:
            if candidate.name in times:
                t = times[candidate.name]
                found.append(
                    {
                        "sweep": key,
                        "title": sweep.name,
                        "number": sweep.number,
                        "value": value,
                        "candidate": candidate.name,
                        "kind": candidate.kind,
                        "used_threads": threads,
                        "median_ms": f"{t.median:.4g}",
                        "fastest_ms": f"{t.fastest:.4g}",
                        "slowest_ms": f"{t.slowest:.4g}",
                        "unit": sweep.unit,
                        "ns_per_unit": f"{t.median * 1e6 / sweep.work(p):.4g}",
                    }
                )
    torch.set_num_threads(1)
    return found


def _write(path: Path, rows: list[dict[str, object]], described: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *described], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **described} for row in rows)


def _show(console: Console, sweep: Sweep, rows: list[dict[str, object]]) -> None:
    """ns for a unit of work: a column for each number, a row for each candidate."""
    values = list(dict.fromkeys(row["value"] for row in rows))
    table = Table(title=f"{sweep.name}: ns for a {sweep.unit}, by {sweep.number}", title_justify="left")
    for name in ("", "threads", *(f"{value:g}" for value in values)):
        table.add_column(name, justify="left" if not name else "right")
    lines: dict[tuple[object, object], Mapping[object, object]] = {}
    for row in rows:
        at = (row["candidate"], row["used_threads"])
        lines[at] = {**lines.get(at, {}), row["value"]: row["ns_per_unit"]}
    for (name, threads), by_value in lines.items():
        cells = [str(by_value.get(value, "–")) for value in values]
        table.add_row(str(name), str(threads), *cells, style="bold" if str(name).startswith("neurocuda") else None)
    console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--paper", type=Path, default=PAPER, help="folder with the files of the NIR paper")
    parser.add_argument("--sweeps", type=lambda text: text.split(","), help="some of " + ",".join(sweeps(PAPER)))
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds after the first")
    parser.add_argument("--quick", action="store_true", help="two numbers of each, nothing written")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    every = sweeps(arguments.paper)
    arguments.sweeps = list(every) if arguments.sweeps is None else arguments.sweeps
    unknown = sorted(set(arguments.sweeps) - set(every))
    if unknown:
        parser.error(f"--sweeps: expected some of {', '.join(every)}, found {', '.join(unknown)}")
    return arguments


if __name__ == "__main__":
    main()
