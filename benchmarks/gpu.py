"""NeuroCUDA on a GPU: its operators against the bandwidth of a copy, whole networks against PyTorch and peers.

python -m benchmarks.gpu [--groups neuron,network] [--rows digits,resnet18] [--steps 8,64] [--without triton]
                         [--repeats 10] [--quick] [--output x.json]

Candidates take turns, timed by events in the stream, each from cold caches; a plain copy takes turns with them, and
its bandwidth is what they are measured against. The results of each are compared first, and whatever computes
something else is named and not timed. Where there is no GPU, bytes and floors are predicted, and nothing is measured.
"""

import argparse
import gc
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import frameworks
from benchmarks.frameworks.plain import compile_for_every_shape
from benchmarks.machine import describe_gpu
from benchmarks.on_gpu import candidates, measurements, operators, prediction
from benchmarks.on_gpu.cases import Case, neuron_cases, recurrent_cases, residual_cases
from benchmarks.on_gpu.clock import Bench
from benchmarks.on_gpu.measurements import Measurement
from benchmarks.on_gpu.rows import Row, rows
from benchmarks.workloads import PAPER
from neurocuda import NeuroCUDAWarning

RESULTS = Path(__file__).with_name("results")
GROUPS = ("neuron", "residual", "recurrent", "network")


def main() -> None:
    arguments = _arguments()
    warnings.simplefilter("ignore", NeuroCUDAWarning)
    console = Console(width=None if Console().is_terminal else 240)
    known = rows(arguments.quick)
    chosen = [known[name] for name in arguments.rows]
    if not torch.cuda.is_available():
        console.print("No NVIDIA GPU that this torch can use is here: nothing is measured.")
        prediction.show(console, arguments.groups, chosen, arguments.paper, arguments.quick)
        return
    device = torch.device("cuda", torch.cuda.current_device())
    gc.freeze()  # what was imported is not looked through between rounds
    logging.disable(logging.WARNING)
    compile_for_every_shape()
    torch.backends.cudnn.allow_tf32 = False  # for everybody: float32 is float32
    torch.backends.cudnn.benchmark = True
    machine = describe_gpu(device)
    for name, value in machine.items():
        console.print(f"[dim]{name}: {value}[/dim]", highlight=False)
    found: list[Measurement] = []
    with torch.no_grad():
        for lines in measure(console, Bench(device, arguments.repeats), arguments, chosen):
            found += lines
            if arguments.output:
                measurements.write(arguments.output, machine, found)  # what is measured outlives what stops it
    if arguments.output:
        from benchmarks.on_gpu.roofline import draw

        console.print(f"{arguments.output} and {draw(arguments.output)} written")


def measure(
    console: Console, bench: Bench, arguments: argparse.Namespace, chosen: Iterable[Row]
) -> Iterator[list[Measurement]]:
    """The lines of every requested table, after printing it; a line that could not be measured has the reason."""
    tables: dict[str, Iterable[Case]] = {
        "neuron": (c for c in neuron_cases(arguments.quick) if arguments.steps is None or c.steps in arguments.steps),
        "residual": residual_cases(arguments.quick),
        "recurrent": recurrent_cases(arguments.quick),
    }
    for group in (name for name in tables if name in arguments.groups):
        lines = [
            line
            for case in tables[group]
            for line in _guarded(console, case.name, operators.measure(case, bench, arguments.without))
        ]
        measurements.show(console, group, lines)
        yield lines
    if "network" in arguments.groups:
        _, missing = frameworks.available()
        for name, why in missing.items():
            console.print(f"{name}: {why}", highlight=False)
        for row in chosen:
            problem = row.problem(arguments.paper)
            lines = list(_guarded(console, row.name, candidates.measure(problem, bench, arguments.without)))
            measurements.show(console, row.name, lines)
            yield lines


def _guarded(console: Console, name: str, lines: Iterator[Measurement]) -> Iterator[Measurement]:
    """The lines of one case; one that does not fit into memory is named and left out."""
    try:
        with console.status(name):
            yield from lines
    except torch.OutOfMemoryError as error:
        console.print(f"{name}: left out: {str(error).splitlines()[0]}", highlight=False)
        torch.cuda.empty_cache()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = list(rows())
    parser.add_argument("--groups", type=_some_of(GROUPS), default=list(GROUPS), help=f"some of {','.join(GROUPS)}")
    parser.add_argument("--rows", type=_some_of(names), default=names, help=f"networks, some of {','.join(names)}")
    parser.add_argument("--steps", type=lambda text: [int(t) for t in text.split(",")], help="of the neuron cases")
    parser.add_argument("--without", help="leave out the candidates whose name has this in it")
    parser.add_argument("--repeats", type=int, help="timed rounds after the first, 10, with --quick 3")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look whether everything runs")
    parser.add_argument("--paper", type=Path, default=PAPER, help="folder with the files of the NIR paper")
    parser.add_argument("--output", type=Path, help="JSON to write, and beside it a plot; with --quick none")
    arguments = parser.parse_args()
    if arguments.repeats is None:
        arguments.repeats = 3 if arguments.quick else 10
    if arguments.output is None and not arguments.quick and torch.cuda.is_available():
        name = "".join(c if c.isalnum() else "-" for c in torch.cuda.get_device_name().lower())
        arguments.output = RESULTS / f"gpu-{name}.json"
    return arguments


def _some_of(known: Sequence[str]) -> "Choice":
    return Choice(known)


class Choice:
    """Names separated by commas, of those that are known."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = known

    def __call__(self, text: str) -> list[str]:
        chosen = text.split(",")
        unknown = sorted(set(chosen) - set(self.known))
        if unknown:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(self.known)}, found {', '.join(unknown)}")
        return chosen


if __name__ == "__main__":
    main()
