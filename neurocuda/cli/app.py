"""The `neurocuda` command: looks at a NIR file, checks it, runs it, proves that the run repeats, makes one of a model.

Exit codes: 0 all is well; 1 the graph has problems, or a trial differs; 2 the command could not be carried out.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor

from neurocuda.cli.console import count, escape_unprintable, messages, show, show_table
from neurocuda.cli.convert import convert
from neurocuda.cli.npy import check_target, read_inputs, write_arrays
from neurocuda.compiler.certificate import Certificate
from neurocuda.compiler.exactness import certify
from neurocuda.compiler.pipeline import compile_graph
from neurocuda.compiler.schedule import schedule
from neurocuda.discretization.diagnostics import doubts, likely_exporter, problems
from neurocuda.discretization.settings import PRESETS, Discretization
from neurocuda.errors import ArgumentError, FileError, GraphError, Problem, nearest
from neurocuda.graph import Graph, parameters_text, shape_text
from neurocuda.graph.serialization import check as check_file
from neurocuda.graph.serialization import read
from neurocuda.ops.backends import backends
from neurocuda.runtime.nir_executor import Executor
from neurocuda.runtime.state import State
from neurocuda.verify import Report
from neurocuda.verify import verify as verify_file
from neurocuda.version import __version__

# Steps that `run` takes at a time: a multiple of the executor's chunk, so that the bits are those of one call.
_PIECE = 128
_STEPS, _BATCH = 50, 4

app = typer.Typer(
    help="Runs spiking neural networks described in NIR.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

File = Annotated[str, typer.Argument(metavar="FILE", help="A NIR file.")]
MaybeFile = Annotated[str | None, typer.Argument(metavar="[FILE]", help="A NIR file.")]
System = Annotated[bool, typer.Option("--system", help="Show versions, threads, GPUs and backends.")]
Dt = Annotated[
    float | None,
    typer.Option("--dt", metavar="S", help="Length of a step in seconds; without it 1e-4 or the preset's."),
]
Like = Annotated[
    str | None,
    typer.Option("--like", metavar="PRESET", help=f"Step as a simulator does: {', '.join(PRESETS)}."),
]
Ordered = Annotated[bool, typer.Option("--ordered", help="Sum every layer in the defined order, however large.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Input = Annotated[
    str,
    typer.Option(
        "--input",
        metavar="X",
        help="An .npy file [T, B, *shape], or an .npz file with one such array by name of each Input.",
    ),
]
DrawnInput = Annotated[
    str | None, typer.Option("--input", metavar="X", help="An input as for run; without it one is drawn.")
]
Steps = Annotated[
    int | None, typer.Option("--steps", metavar="T", help=f"Steps of the drawn input; without it {_STEPS}.")
]
Batch = Annotated[
    int | None, typer.Option("--batch", metavar="B", help=f"Samples of the drawn input; without it {_BATCH}.")
]
Record = Annotated[
    list[str] | None,
    typer.Option(
        "--record",
        metavar="NODE[:QUANTITY]",
        help="Record a node at every step: its output, or input, spikes, v, i. Repeatable.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option("--output", metavar="Y", help="The .npz file to write: outputs by name, recordings as NODE.QUANTITY."),
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1; without it cuda where there is one."),
]


def main() -> None:
    """Run the command with the arguments of the process."""
    escape_unprintable()
    app(prog_name="neurocuda")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"neurocuda {__version__}")
        raise typer.Exit


@app.command()
def info(
    file: MaybeFile = None, dt: Dt = None, like: Like = None, ordered: Ordered = False, system: System = False
) -> None:
    """Show nodes, schedule, delayed edges and doubts."""
    with messages():
        if system:
            _show_system()
        if file is None:
            if not system:
                raise ArgumentError("info: expected a FILE or --system, found neither")
            return
        d = _discretization(dt, like)
        graph = read(file)
        show(f"{file}: {count(len(graph.nodes), 'node')}, {count(len(graph.edges), 'edge')}")
        show(f"NIR version: {graph.version or 'not stated'}")
        show(f"Likely exporter: {likely_exporter(graph) or 'unknown'}")
        show(f"Discretization: {', '.join(f'{field.name}={getattr(d, field.name)}' for field in fields(d))}")
        _show_nodes(graph)
        lowered = compile_graph(graph, d, ordered=ordered).schedule
        header, *rows = lowered.rows()
        show_table("Schedule", header, rows)
        delayed = [f"{edge.source} -> {edge.target}" for edge in lowered.schedule.delayed]
        show(f"\nDelayed edges: {', '.join(delayed) or 'none'}")
        _show_doubts(graph, d)


@app.command()
def check(file: File, dt: Dt = None, like: Like = None, as_json: Json = False) -> None:
    """Name every problem of a graph.

    Exit code 0: no problem; 1: problems; 2: not a readable NIR file.
    """
    with messages():
        d = _discretization(dt, like)
        try:
            graph, found = check_file(file)
        except FileError as error:
            if not as_json:
                raise
            unreadable = {"where": file, "field": None, "expected": "a NIR file", "found": str(error)}
            _show_json(file, [{**unreadable, "kind": "FileError"}], [])
            raise typer.Exit(2) from error
        warnings: list[str] = []
        if graph is not None:
            found = problems_as_asked(graph, d)
            warnings = [*graph.warnings, *doubts(graph, d)]
    if as_json:
        _show_json(file, [_as_dict(problem) for problem in found], warnings)
    else:
        for line in [*(f"problem: {problem}" for problem in found), *(f"warning: {w}" for w in warnings)]:
            show(line)
        show(f"{file}: {count(len(found), 'problem')}, {count(len(warnings), 'warning')}")
    raise typer.Exit(1 if found else 0)


@app.command()
def run(
    file: File,
    x: Input,
    dt: Dt = None,
    like: Like = None,
    record: Record = None,
    output: Output = None,
    device: Device = None,
    ordered: Ordered = False,
) -> None:
    """Run a graph over an input.

    Prints a summary. Writes outputs and recordings where --output is given.
    """
    with messages():
        d = _discretization(dt, like)
        where = _device(device)
        if output is not None:
            check_target(output)
        graph = read(file)
        asked = _asked(graph, record or [])
        net = Executor(graph, d, ordered=ordered).to(where)
        signals = _inputs(x, graph)
        _show_doubts(graph, d, err=True)
        outcome = _run(net, signals, asked, where)
        if output is not None:
            write_arrays(output, outcome.arrays)
        _show_outcome(outcome, graph)
        duration = f"{count(outcome.steps, 'step')} of {count(outcome.batch, 'sample')} in {outcome.seconds:.3g} s"
        show(f"\n{duration} on {where}" + (f"; written to {output}" if output is not None else ""))


@app.command()
def verify(
    file: File,
    x: DrawnInput = None,
    steps: Steps = None,
    batch: Batch = None,
    dt: Dt = None,
    like: Like = None,
    ordered: Ordered = False,
) -> None:
    """Prove that a run repeats bit for bit.

    Runs the graph in other chunks, batches, orders, threads and pieces, and compares every node at every step.
    Exit code 0: equal bits; 1: other bits, the first of which is named. Prints the certificate too: of which
    layers any order of summation is proved to give the same bits.
    """
    with messages():
        if x is not None and (steps is not None or batch is not None):
            raise ArgumentError("verify: expected --steps and --batch only without --input, found both")
        d = _discretization(dt, like)
        graph = read(file)
        signals = None if x is None else _inputs(x, graph)
        _show_doubts(graph, d, err=True)
        steps, batch = _STEPS if steps is None else steps, _BATCH if batch is None else batch
        layers = [name for name, node in graph.nodes.items() if ordered and node.primitive.is_weighted]
        with Console(stderr=True).status("Running"):
            report = verify_file(file, d, signals, steps=steps, batch=batch, force=dict.fromkeys(layers, "ordered"))
        _show_report(report)
        _show_certificate(certify(graph, d))
    raise typer.Exit(0 if report.ok else 1)


app.command()(convert)


def problems_as_asked(graph: Graph, d: Discretization) -> tuple[Problem, ...]:
    """What keeps a sound graph from running with `d`: coefficients, delays, cycles without state."""
    found = problems(graph, d)
    try:
        schedule(graph, d)
    except GraphError as error:
        found += error.problems
    return found


def _as_dict(problem: Problem) -> dict[str, str | None]:
    stated = {name: getattr(problem, name) for name in ("where", "field", "expected", "found")}
    return {**stated, "kind": problem.error.__name__}


def _discretization(dt: float | None, like: str | None) -> Discretization:
    changes: dict[str, Any] = {} if dt is None else {"dt": dt}
    return Discretization(**changes) if like is None else Discretization.preset(like, **changes)


def _inputs(path: str, graph: Graph) -> dict[str, Tensor]:
    signals, notes = read_inputs(path, graph)
    for note in notes:
        show(f"note: {note}", err=True)
    return signals


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ArgumentError(f"--device: expected cpu, cuda, cuda:1, ..., found {name!r}") from error
    devices = torch.cuda.device_count()
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= devices):
        raise ArgumentError(f"--device: expected cpu or one of {count(devices, 'CUDA device')}, found {name!r}")
    return device


def _asked(graph: Graph, record: Sequence[str]) -> dict[str, list[str]]:
    """What --record asks, as `Executor.run` takes it. The name of a node may hold colons."""
    asked: dict[str, list[str]] = {}
    for entry in record:
        name, _, quantity = (entry, "", "output") if entry in graph.nodes else entry.rpartition(":")
        if name not in graph.nodes:
            close = nearest(name or entry, graph.nodes)
            raise ArgumentError(f"--record: expected NODE or NODE:QUANTITY, found {entry!r} ({close})")
        if f"{name}.{quantity}" in graph.outputs:
            raise ArgumentError(
                f"--record: expected recordings named otherwise than the outputs, found {entry!r} "
                f"beside the Output '{name}.{quantity}'"
            )
        if quantity not in asked.setdefault(name, []):
            asked[name].append(quantity)
    return asked


@dataclass(frozen=True)
class _Outcome:
    """What a run gave: outputs and recordings by the name they are stored under, and firing rates by node."""

    arrays: dict[str, np.ndarray]
    rates: dict[str, float]
    steps: int
    batch: int
    seconds: float


def _run(net: Executor, x: Mapping[str, Tensor], asked: Mapping[str, Sequence[str]], device: torch.device) -> _Outcome:
    """Run piece by piece, so that the spikes that firing rates are counted from need not all be kept."""
    started = time.perf_counter()
    nodes = net.graph.nodes
    steps, batch = next(iter(x.values())).shape[:2]
    firing = [name for name, node in nodes.items() if node.primitive.emits_spikes]
    record = {name: {*asked.get(name, ()), *(["spikes"] if name in firing else [])} for name in {*asked, *firing}}
    pieces: dict[str, list[Tensor]] = {}
    spikes = dict.fromkeys(firing, 0.0)
    state: State | None = None
    with torch.no_grad():
        for start in range(0, max(steps, 1), _PIECE):
            part = {name: signal[start : start + _PIECE].to(device) for name, signal in x.items()}
            result = net.run(part, state, record)
            state = result.state
            signals = result.output if isinstance(result.output, dict) else {net.graph.outputs[0]: result.output}
            for name, quantities in asked.items():
                signals |= {f"{name}.{quantity}": result.recordings[name][quantity] for quantity in quantities}
            for name, signal in signals.items():
                pieces.setdefault(name, []).append(signal.cpu())
            for name in firing:
                spikes[name] += float(result.recordings[name]["spikes"].sum(dtype=torch.float64))
    arrays = {name: torch.cat(parts).numpy() for name, parts in pieces.items()}
    seconds = time.perf_counter() - started
    neurons = {name: math.prod(nodes[name].output_shape) for name in firing}
    rates = {name: spikes[name] / max(1, steps * batch * neurons[name]) for name in firing}
    return _Outcome(arrays, rates, steps, batch, seconds)


def _show_system() -> None:
    show(f"neurocuda {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    show(f"{platform.machine()}, {count(torch.get_num_threads(), 'thread')}")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        version = ".".join(map(str, torch.cuda.get_device_capability(index)))
        show(f"GPU {index}: {torch.cuda.get_device_name(index)}, compute capability {version}")
    for name, state in backends().items():
        show(f"backend {name}: {state}")


def _show_doubts(graph: Graph, d: Discretization, *, err: bool = False) -> None:
    for line in [*graph.warnings, *doubts(graph, d)]:
        show(f"warning: {line}", err=err)


def _show_json(file: str, problems: list[dict[str, str | None]], warnings: list[str]) -> None:
    content = {"file": file, "ok": not problems, "problems": problems, "warnings": warnings}
    typer.echo(json.dumps(content, indent=2))


def _show_nodes(graph: Graph) -> None:
    rows = [
        (name, node.type, shape_text(node.input_shape), shape_text(node.output_shape), parameters_text(node))
        for name, node in graph.nodes.items()
    ]
    show_table("Nodes", ("node", "type", "input", "output", "parameters"), rows)


def _show_outcome(outcome: _Outcome, graph: Graph) -> None:
    rows = []
    for name, array in outcome.arrays.items():
        levels = (array.min(), array.mean(dtype=np.float64), array.max()) if array.size else ()
        rows.append((name, str(array.shape), *(f"{level:.6g}" for level in levels)))
    show_table("Outputs and recordings", ("signal", "shape", "min", "mean", "max"), rows)
    if outcome.rates:
        firing = [
            (name, graph.nodes[name].type, shape_text(graph.nodes[name].output_shape), f"{rate:.6g}")
            for name, rate in outcome.rates.items()
        ]
        show_table("Firing rates", ("node", "type", "shape", "spikes per neuron and step"), firing)


def _show_certificate(certificate: Certificate) -> None:
    header, *rows = certificate.rows()
    show_table("Certificate", header, rows)
    for line in certificate.lines():
        show(line)


def _show_report(report: Report) -> None:
    drive = f"{count(report.steps, 'step')} of {count(report.batch, 'sample')}, {count(report.spikes, 'spike')}"
    compared = f"{count(report.values, 'value')} of {count(report.nodes, 'node')} compared in each trial"
    show(f"{report.source}: {drive}; {compared}")
    for trial in report.trials:
        show(f"{'equal  ' if trial.difference is None else 'DIFFERS'}  {trial.way}")
        if trial.difference is not None:
            show(f"         first at {trial.difference}")
    if report.library:
        names = ", ".join(report.library)
        show(f"Computed by the library, whose last bit may depend on chunk, batch and threads: {names}")
    if not report.spikes:
        show("Nothing fired: an --input that drives the graph proves more.")
    differing = sum(trial.difference is not None for trial in report.trials)
    verdict = "equal bits in all of them" if report.ok else f"other bits in {differing} of them"
    show(f"{count(len(report.trials), 'trial')}: {verdict}")
