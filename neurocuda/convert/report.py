"""`Report`: how well a converted network agrees with the original over time, and what its layers do."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich import box
from rich.console import Console, Group
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from neurocuda.convert.rectified import in_order
from neurocuda.convert.samples import Samples
from neurocuda.convert.snn import SNN
from neurocuda.convert.spiking import SPIKES
from neurocuda.errors import ArgumentError
from neurocuda.graph import WEIGHTED, Node

TIMES = (1, 2, 4, 8, 16, 32, 64)
_VALUES = 2**26
"""How many recorded values are held at a time: a quarter of a gigabyte."""


@dataclass(frozen=True)
class Moment:
    """The result after `timesteps` of read-out. `error` is the root mean square difference over that of the original.

    `agreement` is the share of samples of the same class as the original's, None where it gives no classes;
    `accuracy` that of right ones, None without labels.
    """

    timesteps: int
    error: float
    agreement: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Population:
    """The neurons of one rectifier: how many, how often they fire (spikes per neuron and step), their thetas."""

    name: str
    neurons: int
    firing_rate: float
    theta: tuple[float, float, float]
    """Smallest, median, largest."""


@dataclass(frozen=True)
class Synapses:
    """A layer of weights: additions per sample and step that its spikes cause, and multiplications if it were dense.

    Of the layers that the input reaches without a neuron between, `operations` are multiplications, the same each step.
    """

    name: str
    operations: float
    dense: int


@dataclass(frozen=True)
class Report:
    """How a converted network does on `samples` samples, read out after `readout_delay` steps.

    `accuracy` is that of the original, None without labels. `percentile` is that of the thresholds, and
    `candidates` how far the network was from the original with each that was tried. Prints as tables.
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
        """The result after so many steps of read-out, one of those that were measured."""
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
        """Draw agreement and accuracy over the steps of read-out, as the picture that the name of `path` says.

        Where the original gives no classes, the error. Needs matplotlib. Raises `ArgumentError` without it.
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


def measure(snn: SNN, samples: Samples, originals: Sequence[Tensor]) -> Report:
    """Run the samples once, and compare with what the original gave for each of their batches.

    Every time is read from the same run, which is as long as the last of them, at least `snn.timesteps`, takes.
    """
    times = sorted({*TIMES, snn.timesteps})
    steps = snn.readout_delay + times[-1]
    counters = _Counters(snn)
    results: list[Tensor] = []
    with torch.no_grad():
        for x in samples.batches:
            for part in torch.split(x, counters.batch(steps)):
                output = counters.run(part, steps)[snn.readout_delay :].double().cumsum(0).cpu()
                results.append(torch.stack([output[t - 1] / t for t in times]))
    found = torch.cat(results, 1)
    original = torch.cat([result.detach().double().cpu() for result in originals])
    labels = samples.all_labels
    labels = None if labels is None else labels.cpu()
    moments = tuple(_moment(t, y, original, labels) for t, y in zip(times, found, strict=True))
    accuracy = _share(original, labels) if labels is not None and is_classes(original) else None
    return Report(
        samples.number, snn.readout_delay, moments, accuracy, counters.populations(steps), counters.synapses(steps)
    )


def is_classes(y: Tensor) -> bool:
    """Whether a result [B, *] can be the scores of classes."""
    return y.ndim == 2 and y.shape[1] > 1


def difference(y: Tensor, original: Tensor) -> float:
    """The root of the mean square difference, as a share of that of the original."""
    scale = float(original.square().mean().sqrt())
    return float((y - original).square().mean().sqrt()) / (scale if scale > 0 else 1.0)


def _moment(timesteps: int, y: Tensor, original: Tensor, labels: Tensor | None) -> Moment:
    if not is_classes(original):
        return Moment(timesteps, difference(y, original), None, None)
    agreement = _share(y, original.argmax(1))
    accuracy = None if labels is None else _share(y, labels)
    return Moment(timesteps, difference(y, original), agreement, accuracy)


def _share(scores: Tensor, classes: Tensor) -> float:
    return float((scores.argmax(1) == classes).double().mean())


class _Counters:
    """Counts spikes, and what arrives at weights, while a network runs."""

    def __init__(self, snn: SNN) -> None:
        self.snn = snn
        nodes = snn.graph.nodes
        self.spikes = {name: 0.0 for name in nodes if name.endswith(SPIKES) and nodes[name].type == "Threshold"}
        weights = [name for name, node in nodes.items() if node.type in WEIGHTED]
        self.arrivals = {name: torch.zeros(nodes[name].input_shape, dtype=torch.float64) for name in weights}
        self.samples = 0
        self._values = sum(math.prod(nodes[name].input_shape) for name in (*self.spikes, *self.arrivals))

    def batch(self, steps: int) -> int:
        """How many samples to run at a time."""
        return max(1, min(100, _VALUES // (self._values * min(steps, 8))))

    def run(self, x: Tensor, steps: int) -> Tensor:
        """The output at each step."""
        at_once = max(1, _VALUES // (self._values * len(x)))
        record = {**dict.fromkeys(self.spikes, "spikes"), **dict.fromkeys(self.arrivals, "input")}
        signal, state, outputs = self.snn.signal(x, steps), None, []
        for part in torch.split(signal, at_once):
            result = self.snn.network.run(part, state, record)
            state = result.state
            assert isinstance(result.output, Tensor)
            outputs.append(result.output)
            for name in self.spikes:
                self.spikes[name] += float(result.recordings[name]["spikes"].sum(dtype=torch.float64))
            for name, total in self.arrivals.items():
                total += (result.recordings[name]["input"] != 0).sum((0, 1)).cpu()
        self.samples += len(x)
        return torch.cat(outputs)

    def populations(self, steps: int) -> tuple[Population, ...]:
        result = []
        for name in in_order(self.snn.rectified):
            node = self.snn.rectified.nodes[name]
            if node.type == "ReLU":
                neurons = math.prod(node.output_shape)
                rate = self.spikes[name + SPIKES] / (self.samples * steps * neurons)
                theta = np.quantile(self.snn.thresholds[name], (0, 0.5, 1))
                result.append(Population(name, neurons, rate, (float(theta[0]), float(theta[1]), float(theta[2]))))
        return tuple(result)

    def synapses(self, steps: int) -> tuple[Synapses, ...]:
        result = []
        for name in in_order(self.snn.rectified):
            if name not in self.arrivals:
                continue
            arrivals = self.arrivals[name]
            reached = _reached(self.snn.graph.nodes[name])
            operations = float((arrivals / (self.samples * steps) * reached).sum())
            result.append(Synapses(name, operations, int(reached.sum())))
        return tuple(result)


def _reached(node: Node) -> Tensor:
    """How many outputs each input of a layer reaches through a weight that is not zero, float64."""
    weight = torch.from_numpy(node.array("weight") != 0).double()
    if node.type in ("Affine", "Linear"):
        return weight.sum(-2)
    x = torch.zeros(1, *node.input_shape, dtype=torch.float64, requires_grad=True)
    convolution: Callable[..., Tensor] = functional.conv1d if node.type == "Conv1d" else functional.conv2d
    padding = node.parameters["padding"]
    with torch.enable_grad():
        stride, dilation = node.numbers("stride"), node.numbers("dilation")
        total = convolution(x, weight, None, stride, padding, dilation, node.number("groups")).sum()
        return torch.autograd.grad(total, x)[0][0]


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
