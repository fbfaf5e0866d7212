"""`neurocuda verify`: equal bits in every chunk, batch, order and number of threads, and the proof of exactness."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from neurocuda.cli.console import count, messages, show, show_table, show_warnings
from neurocuda.cli.options import Dt, File, Like, Ordered, resolved
from neurocuda.errors import ArgumentError, NeuroCUDAWarning

if TYPE_CHECKING:
    from neurocuda.compiler.certificate import Certificate
    from neurocuda.verify import Report

_STEPS, _BATCH = 50, 4

Input = Annotated[str | None, typer.Option("--input", metavar="X", help="An input as for run. Default: random.")]
Steps = Annotated[
    int | None, typer.Option("--steps", metavar="T", help=f"Steps of the random input. Default: {_STEPS}.")
]
Batch = Annotated[
    int | None, typer.Option("--batch", metavar="B", help=f"Samples of the random input. Default: {_BATCH}.")
]


def verify(
    file: File,
    x: Input = None,
    steps: Steps = None,
    batch: Batch = None,
    dt: Dt = None,
    like: Like = None,
    ordered: Ordered = False,
) -> None:
    """Verify that a run repeats bit for bit.

    Runs the graph in other chunks, batches, orders, threads and pieces, and compares every node at every step.
    Exit code 0: equal bits; 1: other bits, the first of which is named. Prints the certificate too: of which
    layers any order of summation is proved to give the same bits.
    """
    from rich.console import Console

    from neurocuda.cli.npy import read_inputs
    from neurocuda.compiler.exactness import certify
    from neurocuda.discretization.plausibility import doubts
    from neurocuda.graph.serialization import read
    from neurocuda.verify import verify as verify_file

    with messages():
        if x is not None and (steps is not None or batch is not None):
            raise ArgumentError("verify: expected --steps and --batch only without --input, found both")
        graph = read(file)
        d = resolved(graph, dt, like).discretization
        signals = None if x is None else read_inputs(x, graph)
        show_warnings([*graph.warnings, *doubts(graph, d)], err=True)
        steps, batch = _STEPS if steps is None else steps, _BATCH if batch is None else batch
        layers = [name for name, node in graph.nodes.items() if ordered and node.primitive.is_weighted]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NeuroCUDAWarning)  # shown above
            with Console(stderr=True).status("Running"):
                report = verify_file(file, d, signals, steps=steps, batch=batch, force=dict.fromkeys(layers, "ordered"))
            certificate = certify(graph, d)
        _show_report(report)
        _show_certificate(certificate)
    raise typer.Exit(0 if report.ok else 1)


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
        show(f"Computed by the vendor library, whose last bit may depend on chunk, batch and threads: {names}")
    if not report.spikes:
        show("Nothing fired: an --input that drives the graph proves more.")
    differing = sum(trial.difference is not None for trial in report.trials)
    verdict = "equal bits in all of them" if report.ok else f"other bits in {differing} of them"
    show(f"{count(len(report.trials), 'trial')}: {verdict}")


def _show_certificate(certificate: Certificate) -> None:
    header, *rows = certificate.rows()
    show_table("Certificate", header, rows)
    for line in certificate.lines():
        show(line)
