"""NeuroCUDA side by side with its peers and with the physical floor, on this machine, in one process.

python -m benchmarks.peers [--rows lif,braille] [--threads 1] [--repeats 7] [--quick] [--output results.csv]

Candidates take turns, run by run. Before it is timed, the result of each is compared with ours, population by
population; one that computes something else is named and not timed. Peak memory is measured in a process for each.
"""

import argparse
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import cores, frameworks, machine, plot, results
from benchmarks import peaks as peaks_of
from benchmarks.agreement import Truth, verdict
from benchmarks.frameworks.plain import compile_for_every_shape
from benchmarks.problem import Candidate, Problem, Runner
from benchmarks.results import Result
from benchmarks.stages import microseconds
from benchmarks.timing import Times, side_by_side
from benchmarks.workloads import PAPER, ROWS
from neurocuda import Discretization, NeuroCUDAWarning

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    arguments = _arguments()
    warnings.simplefilter("ignore", NeuroCUDAWarning)
    logging.disable(logging.WARNING)
    torch.set_num_threads(arguments.threads)
    compile_for_every_shape()
    console = Console(width=None if Console().is_terminal else 200)
    described = machine.describe(arguments.threads)
    for name, value in described.items():
        console.print(f"[dim]{name}: {value}[/dim]", highlight=False)
    tools, missing = frameworks.available()
    left_out = [_left_out(name, why) for name, why in missing.items()]
    peaks: peaks_of.Peaks = {}
    if not arguments.no_memory:
        with console.status("peak memory"):
            peaks = peaks_of.measured(arguments.rows, arguments.threads, arguments.quick, arguments.paper)
    with torch.no_grad():
        problems = [ROWS[row](arguments.paper, arguments.quick) for row in arguments.rows]
        candidates = {p.row: [c for tool in tools.values() for c in tool(p)] for p in problems}
        every: list[Result] = []
        crossings: list[str] = []
        for problem in problems:
            there = candidates[problem.row]
            if arguments.threads > 1:
                crossings.append(f"{problem.row} {cores.crossing():.2f}")
                console.print(f"a pass over what another core wrote, in passes over its own: {crossings[-1]}")
            scaled = [c for c in there if c.name in OURS or c.kind == "floor"]
            if arguments.threads == 1 or problem.one_call_a_step:
                scaled = []
            there = [*there, *(_on_one_thread(c, arguments.threads) for c in scaled)]
            found = _measure(console, problem, there, peaks.get(problem.row, {}), arguments.repeats)
            found += _again(console, problem, scaled, arguments)
            every += found
            heading = f"{problem.row}: {problem.title}, {arguments.threads} thread(s)"
            results.show(console, [*found, *left_out], heading, _summary(problem, found))
    every += left_out
    if arguments.output:
        results.write(arguments.output, every, {**described, "crossing": ", ".join(crossings)})
        console.print(f"{arguments.output} and {plot.draw(arguments.output)} written")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=_rows, default=list(ROWS), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, help="timed rounds after the first, 7, with --quick 3")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look whether everything runs")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--paper", type=Path, default=PAPER, help="folder with the files of the NIR paper")
    parser.add_argument("--output", type=Path, help="CSV to write, and beside it a plot; with --quick none")
    arguments = parser.parse_args()
    if arguments.repeats is None:
        arguments.repeats = 3 if arguments.quick else 7
    if arguments.output is None and not arguments.quick:
        arguments.output = RESULTS / f"peers-{arguments.threads}-threads.csv"
    return arguments


def _rows(text: str) -> list[str]:
    rows = text.split(",")
    unknown = sorted(set(rows) - set(ROWS))
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(ROWS)}, found {', '.join(unknown)}")
    return rows


OURS = ("neurocuda", "neurocuda, frozen")
ONE_THREAD, AGAIN = ", one thread", ", again"


def _on_one_thread(candidate: Candidate, threads: int) -> Candidate:
    """The same among candidates with several threads: the speedup is a ratio within one run."""

    def build(problem: Problem) -> Runner:
        runner = candidate.build(problem)

        def run() -> object:
            torch.set_num_threads(1)
            try:
                return runner.run()
            finally:
                torch.set_num_threads(threads)

        return Runner(run)

    return Candidate(candidate.name + ONE_THREAD, candidate.kind, build)


def _again(
    console: Console, problem: Problem, candidates: list[Candidate], arguments: argparse.Namespace
) -> list[Result]:
    """The same on all threads and one, each right after a run of the same candidate: the speedup with warm threads."""
    both = [ways for c in candidates for ways in (c, _on_one_thread(c, arguments.threads))]
    with console.status(f"{problem.row}: timed again"):
        runs = {c.name: peaks_of.run_of(c, problem) for c in both}
        times = side_by_side(runs, arguments.repeats, again=True) if runs else {}
    found = []
    for name, t in times.items():
        row = (problem.row, problem.title, name + AGAIN, "again", "ms", *_scaled(t, 1.0), arguments.repeats)
        found.append(Result(*row, None, None, None, False, ""))
    return found


def _measure(
    console: Console, problem: Problem, candidates: list[Candidate], peaks: Mapping[str, float], repeats: int
) -> list[Result]:
    """Build, compare, and time those that agree."""
    runners: dict[str, Runner] = {}
    verdicts: dict[str, str] = {}
    truths: dict[Discretization, Truth] = {}
    for candidate in candidates:
        with console.status(f"{problem.row}: {candidate.name} compared with ours"):
            try:
                runner = candidate.build(problem)
                agrees, verdicts[candidate.name] = verdict(problem, runner, truths)
            except Exception as error:  # whatever a foreign package raises, the others are still measured
                verdicts[candidate.name] = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                continue
        if agrees:
            runners[candidate.name] = runner
    truths.clear()
    with console.status(f"{problem.row}: timed"):
        times = side_by_side({name: runner.run for name, runner in runners.items()}, repeats)
    floors = [times[c.name].median for c in candidates if c.kind == "floor" and c.name in times]
    ours = [times[c.name].median for c in candidates if c.kind == "ours" and c.name in times]
    found = []
    for c in candidates:
        per_unit = 1e3 / problem.steps if problem.one_call_a_step else 1.0
        t = times.get(c.name)
        found.append(
            Result(
                problem.row,
                problem.title,
                c.name,
                c.kind,
                "us" if problem.one_call_a_step else "ms",
                *_scaled(t, per_unit),
                repeats if t else 0,
                t.median / min(floors) if t and floors else None,
                t.median / ours[0] if t and ours else None,
                peaks.get(c.name),
                c.batches_over_time,
                verdicts[c.name],
            )
        )
    return found


def _scaled(times: Times | None, factor: float) -> tuple[float | None, float | None, float | None]:
    if times is None:
        return None, None, None
    return times.median * factor, times.fastest * factor, times.slowest * factor


def _summary(problem: Problem, found: list[Result]) -> str:
    """The best of each group and ours, and the one with the least memory that batches over time."""
    timed = [r for r in found if r.median is not None]
    ours = next((r for r in timed if r.kind == "ours"), None)
    if ours is None or ours.median is None:
        return "neurocuda was not timed"
    lines = []
    for what, kind in (("peer", "peer"), ("plain torch", "torch"), ("torch.compile", "compiled")):
        best = min((r for r in timed if r.kind == kind), key=lambda r: r.median or 0.0, default=None)
        if best is not None and best.times_ours is not None:
            lines.append(f"best {what}: {best.candidate}, {best.times_ours:.2f} times our time")
    medians = {r.candidate: r.median or 0.0 for r in timed}
    for ending, when in (("", ""), (AGAIN, ", each right after a run of its own")):
        one = ONE_THREAD + ending
        alone = {name.removesuffix(one): median for name, median in medians.items() if name.endswith(one)}
        if alone:
            gains = ", ".join(f"{name} {median / medians[name + ending]:.2f}" for name, median in alone.items())
            lines.append(f"one thread takes, times as long{when}: {gains}")
    lean = [(r.peak_mib, r.candidate) for r in timed if r.over_time and r.kind == "peer" and r.peak_mib is not None]
    whole = (*OURS, *(name.replace("neurocuda", "neurocuda, output alone") for name in OURS))
    own = {r.candidate: r.peak_mib for r in timed if r.candidate in whole and r.peak_mib}
    if lean and own:
        most, leanest = min(lean)
        times = ", ".join(f"{most / peak:.2f} times that of {name}" for name, peak in own.items())
        lines.append(f"peak memory of the leanest peer that batches over time: {leanest}, {times}")
    if problem.one_call_a_step:
        stages = ", ".join(f"{name} {time:.1f}" for name, time in microseconds(problem).items())
        lines.append(f"neurocuda, µs by stage: {stages}")
    return "\n".join(lines)


def _left_out(name: str, why: str) -> Result:
    return Result("", "", name, "peer", "", None, None, None, 0, None, None, None, False, why)


if __name__ == "__main__":
    main()
