"""`neurocuda run`: a graph over an input, with outputs and recordings as an .npz file."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from neurocuda.cli.console import count, messages, show, show_table, show_warnings
from neurocuda.cli.options import Dt, File, Like, Ordered, resolved
from neurocuda.errors import ArgumentError, nearest

if TYPE_CHECKING:
    from neurocuda.graph import Graph
    from neurocuda.runtime.nir_executor import Executor
    from neurocuda.runtime.state import State

# Steps that `run` takes at a time: a multiple of the executor's chunk, so that the bits are those of one call.
_PIECE = 128

Input = Annotated[
    str,
    typer.Option(
        "--input",
        metavar="X",
        help="An .npy file [T, B, *shape], or an .npz file with one such array for each Input, by name.",
    ),
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
    typer.Option(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ... Default: cuda if available, otherwise cpu."
    ),
]


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

    Prints a summary. Writes outputs and recordings to --output, if named.
    """
    from neurocuda.cli.npy import check_target, read_inputs, write_arrays
    from neurocuda.discretization.plausibility import doubts
    from neurocuda.graph.serialization import read
    from neurocuda.runtime.nir_executor import Executor

    with messages():
        where = _device(device)
        if output is not None:
            check_target(output)
        graph = read(file)
        recorded = _recorded(graph, record or [])
        d = resolved(graph, dt, like).discretization
        net = Executor(graph, d, ordered=ordered).to(where)
        signals = read_inputs(x, graph)
        show_warnings([*graph.warnings, *doubts(graph, d)], err=True)
        outcome = _run(net, signals, recorded, where)
        if output is not None:
            write_arrays(output, outcome.arrays)
        _show_outcome(outcome, graph)
        duration = f"{count(outcome.steps, 'step')} of {count(outcome.batch, 'sample')} in {outcome.seconds:.3g} s"
        show(f"\n{duration} on {where}" + (f"; written to {output}" if output is not None else ""))


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


def _recorded(graph: Graph, record: Sequence[str]) -> dict[str, list[str]]:
    """The quantities to record by node, as `Executor.run` takes them. The name of a node may hold colons."""
    recorded: dict[str, list[str]] = {}
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
        if quantity not in recorded.setdefault(name, []):
            recorded[name].append(quantity)
    return recorded


@dataclass(frozen=True)
class _Outcome:
    """Outputs and recordings by their name in the file, and firing rates (spikes per neuron and step) by node."""

    arrays: dict[str, np.ndarray]
    rates: dict[str, float]
    steps: int
    batch: int
    seconds: float


def _run(
    net: Executor, x: Mapping[str, Tensor], recorded: Mapping[str, Sequence[str]], device: torch.device
) -> _Outcome:
    """Runs piece by piece, so that memory holds the spikes, from which firing rates are counted, of one piece only."""

    started = time.perf_counter()
    nodes = net.graph.nodes
    steps, batch = next(iter(x.values())).shape[:2]
    firing = [name for name, node in nodes.items() if node.primitive.emits_spikes]
    record = {name: {*recorded.get(name, ()), *(["spikes"] if name in firing else [])} for name in {*recorded, *firing}}
    pieces: dict[str, list[Tensor]] = {}
    spikes = dict.fromkeys(firing, 0.0)
    state: State | None = None
    with torch.no_grad():
        for start in range(0, max(steps, 1), _PIECE):
            part = {name: signal[start : start + _PIECE].to(device) for name, signal in x.items()}
            result = net.run(part, state, record)
            state = result.state
            signals = result.output if isinstance(result.output, dict) else {net.graph.outputs[0]: result.output}
            for name, quantities in recorded.items():
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


def _show_outcome(outcome: _Outcome, graph: Graph) -> None:
    from neurocuda.graph import shape_text

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
