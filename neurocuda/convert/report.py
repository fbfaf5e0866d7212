"""`Report`: agreement of a converted network with the original over time, firing rates and synaptic operations."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group
from rich.table import Table

from neurocuda.errors import ArgumentError


@dataclass(frozen=True)
class Moment:
    """The result after `timesteps` of read-out. `error` is the root mean square difference over that of the original.

    `agreement` is the share of samples of the same class as the original's, None without class scores;
    `accuracy` the share of samples of the labelled class, None without labels.
    """

    timesteps: int
    error: float
    agreement: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Population:
    """The neurons of one ReLU: their number, firing rate (spikes per neuron and step) and thresholds theta."""

    name: str
    neurons: int
    firing_rate: float
    theta: tuple[float, float, float]
    """Smallest, median, largest."""


@dataclass(frozen=True)
class Synapses:
    """Synaptic operations of a layer with weights per sample and step, and its multiply-adds if computed densely.

    Of the layers that the input reaches without a neuron between, `operations` are multiplications, the same each step.
    """

    name: str
    operations: float
    dense: int


@dataclass(frozen=True)
class Report:
    """Measurements of a converted network; `str(report)` is three tables.

    Args:
        samples: How many samples were measured.
        readout_delay: Time steps before the read-out.
        moments: Error, agreement and accuracy after 1, 2, 4 ... 64 read-out steps.
        accuracy: Of the original; None without labels.
        populations: Neurons, firing rate and thresholds of each ReLU.
        synapses: Synaptic operations of each layer.
        percentile: Of the thresholds.
        candidates: The distance from the original by percentile that was tried.

    Example:
        >>> import neurocuda, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> report = neurocuda.convert(model, torch.rand(16, 4)).report
        >>> report.at(32).timesteps
        32
    """

    samples: int
    readout_delay: int
    moments: tuple[Moment, ...]
    accuracy: float | None
    populations: tuple[Population, ...]
    synapses: tuple[Synapses, ...]
    percentile: float | None = None
    candidates: Mapping[float, float] | None = None

    def at(self, timesteps: int) -> Moment:
        """The measurements after so many read-out steps.

        Args:
            timesteps: 1, 2, 4 ... 64.

        Returns:
            Error, agreement and accuracy.

        Raises:
            ArgumentError: This number was not measured.
        """
        for moment in self.moments:
            if moment.timesteps == timesteps:
                return moment
        known = ", ".join(str(moment.timesteps) for moment in self.moments)
        raise ArgumentError(f"timesteps: expected one of {known}, found {timesteps!r}")

    def __rich__(self) -> Group:
        return Group(_table_of_moments(self), "", _table_of_populations(self), "", _table_of_synapses(self))

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100, highlight=False)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws agreement and accuracy over the read-out steps; the error where the original outputs no classes.

        Args:
            path: The picture; its ending is the format.

        Raises:
            ArgumentError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ArgumentError("plot: expected matplotlib to be installed, found none") from error
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        times = [moment.timesteps for moment in self.moments]
        for label, values in (
            ("agreement with the original", [moment.agreement for moment in self.moments]),
            ("accuracy", [moment.accuracy for moment in self.moments]),
        ):
            if None not in values:
                axes.plot(times, [100 * (value or 0) for value in values], marker="o", markersize=4, label=label)
        if self.accuracy is not None:
            axes.axhline(100 * self.accuracy, color="0.4", linestyle="--", label="accuracy of the original")
        if self.moments[0].agreement is None:
            axes.plot(times, [100 * m.error for m in self.moments], marker="o", markersize=4, label="error")
        axes.set_xscale("log", base=2)
        axes.set_xticks(times, [str(time) for time in times])
        axes.set_xlabel(f"steps of read-out, after {self.readout_delay}")
        axes.set_ylabel("%")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(path, dpi=150)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def _table_of_moments(report: Report) -> Table:
    chosen = "" if report.percentile is None else f", thresholds at {report.percentile:g} %"
    title = f"{report.samples} samples, read out after {report.readout_delay} steps{chosen}"
    table = _table(title, "timesteps", "agreement %", "accuracy %", "gap", "error %")
    for m in report.moments:
        gap = None if m.accuracy is None or report.accuracy is None else report.accuracy - m.accuracy
        cells = [_percent(value) for value in (m.agreement, m.accuracy, gap, m.error)]
        table.add_row(str(m.timesteps), *cells)
    if report.accuracy is not None:
        table.add_row("original", "", _percent(report.accuracy), "", "")
    return table


def _table_of_populations(report: Report) -> Table:
    table = _table("Neurons", "layer", "neurons", "spikes per neuron and step", "theta: least", "median", "most")
    for p in report.populations:
        table.add_row(p.name, str(p.neurons), f"{p.firing_rate:.4f}", *(f"{theta:.4g}" for theta in p.theta))
    return table


def _table_of_synapses(report: Report) -> Table:
    table = _table("Synaptic operations per sample and step", "layer", "operations", "dense", "%")
    total = Synapses("total", sum(s.operations for s in report.synapses), sum(s.dense for s in report.synapses))
    for s in (*report.synapses, total):
        table.add_row(s.name, f"{s.operations:.0f}", str(s.dense), _percent(s.operations / max(s.dense, 1)))
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"
