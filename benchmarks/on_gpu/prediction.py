"""The minimum time of the cases on an H100, computed without a GPU: a prediction, not a measurement."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.on_gpu.cases import (
    OUTPUTS,
    Case,
    NeuronCase,
    neuron_cases,
    recurrent_cases,
    residual_cases,
)
from benchmarks.on_gpu.moved import H100, seconds
from benchmarks.on_gpu.rows import Row, bytes_of, neuron_steps, products_of
from neurocuda import from_nir

HEADING = (
    "PREDICTION, not a measurement: bytes from the types, and the time in which an H100 "
    f"({H100 / 1e12:.2f} TB/s) would move them. Nothing was run."
)


def show(console: Console, groups: Sequence[str], rows: Iterable[Row], paper: Path, quick: bool) -> None:
    """All requested groups."""
    console.print(f"[bold]{HEADING}[/bold]", highlight=False)
    console.print()
    if "neuron" in groups:
        cases = list(neuron_cases(quick))
        console.print(_roofs())
        console.print(_floors(cases))
    if "residual" in groups:
        console.print(_cases("Sums of two branches (prediction)", list(residual_cases(quick))))
    if "recurrent" in groups:
        console.print(_cases("Recurrent populations (prediction)", list(recurrent_cases(quick))))
    if "network" in groups:
        console.print(_networks(rows, paper))
    console.print(f"[bold]{HEADING}[/bold]", highlight=False)


def _roofs() -> Table:
    table = _table("One neuron and step (prediction)", "input to output", "bytes", "G neuron-steps/s at most")
    for input_type, outputs in OUTPUTS.items():
        for output in outputs:
            per_step = NeuronCase(1, 1, input_type, output).per_step
            table.add_row(f"{input_type} to {output}", f"{per_step:g}", f"{H100 / per_step / 1e9:.0f}")
    return table


def _floors(cases: Sequence[NeuronCase]) -> Table:
    """A row for each size, a column for each pair of types."""
    kinds = list(dict.fromkeys((c.input, c.output) for c in cases))
    sizes = list(dict.fromkeys((c.neurons, c.steps) for c in cases))
    by_case = {(c.input, c.output, c.neurons, c.steps): c for c in cases}
    names = [f"{i}\nto {o}" for i, o in kinds]
    table = _table("Floors in µs, states read and written included (prediction)", "N, T", *names)
    for neurons, steps in sizes:
        floors = [f"{_us(by_case[input_type, output, neurons, steps].bytes)}" for input_type, output in kinds]
        table.add_row(f"2^{neurons.bit_length() - 1}, {steps}", *floors)
    return table


def _cases(title: str, cases: Sequence[Case]) -> Table:
    table = _table(title, "case", "bytes a neuron-step", "MB", "floor µs")
    for c in cases:
        table.add_row(c.name, f"{c.per_step:g}", f"{c.bytes / 1e6:.3g}", _us(c.bytes))
    return table


def _networks(rows: Iterable[Row], paper: Path) -> Table:
    """Of their layers too, in float32: the floor is that of the bytes, products may take longer."""
    names = ("T", "B", "M neuron-steps", "MB", "floor µs", "G multiply-adds")
    table = _table("Networks, layer by layer in float32 (prediction)", "network", *names)
    for row in rows:
        try:
            graph = from_nir(row.graph(paper))
        except OSError as error:
            table.add_row(f"{row.title}: {error}", *[""] * len(names))
            continue
        amount = bytes_of(graph, row.steps, row.batch)
        count = neuron_steps(graph, row.steps, row.batch)
        products = products_of(graph, row.steps, row.batch)
        numbers = (f"{count / 1e6:.3g}", f"{amount / 1e6:.3g}", _us(amount), f"{products / 1e9:.3g}")
        table.add_row(row.title, str(row.steps), str(row.batch), *numbers)
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _us(amount: float) -> str:
    value = seconds(amount) * 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"
