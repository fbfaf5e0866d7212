"""Measures the agreement of a converted network with the original over time, and its synaptic operations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from neurocuda.compiler.schedule import in_order
from neurocuda.convert.calibration_data import Samples
from neurocuda.convert.relu_network import compute, rectifiers
from neurocuda.convert.relu_to_spiking import SPIKES
from neurocuda.convert.report import Moment, Population, Report, Synapses
from neurocuda.convert.snn import SNN
from neurocuda.graph import Node

TIMES = (1, 2, 4, 8, 16, 32, 64)
_VALUES = 2**26
"""The most recorded values at a time: 256 MiB."""


def measure(snn: SNN, samples: Samples, originals: Sequence[Tensor]) -> Report:
    """Runs the samples once, and compares with the original's output for each batch.

    All read-out times are read from the same run.
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
    """Counts spikes, and the non-zero inputs of layers, while a network runs."""

    def __init__(self, snn: SNN) -> None:
        self.snn = snn
        nodes = snn.graph.nodes
        self.spikes = {name: 0.0 for name in nodes if name.endswith(SPIKES) and nodes[name].primitive.emits_spikes}
        weights = [name for name, node in nodes.items() if node.primitive.is_weighted]
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
        for name in rectifiers(self.snn.rectified):
            neurons = math.prod(self.snn.rectified.nodes[name].output_shape)
            rate = self.spikes[name + SPIKES] / (self.samples * steps * neurons)
            low, median, high = np.quantile(self.snn.thresholds[name], (0, 0.5, 1))
            result.append(Population(name, neurons, rate, (float(low), float(median), float(high))))
        return tuple(result)

    def synapses(self, steps: int) -> tuple[Synapses, ...]:
        result = []
        for name in in_order(self.snn.rectified.nodes, self.snn.rectified.edges):
            if name in self.arrivals:
                reached = _reached(self.snn.graph.nodes[name])
                operations = float((self.arrivals[name] / (self.samples * steps) * reached).sum())
                result.append(Synapses(name, operations, int(reached.sum())))
        return tuple(result)


def _reached(node: Node) -> Tensor:
    """For each input of a layer, the number of outputs with a non-zero weight from it, float64."""
    weight = torch.from_numpy(node.array("weight") != 0).double()
    x = torch.zeros(1, *node.input_shape, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        return torch.autograd.grad(compute(node, x, {"weight": weight}).sum(), x)[0][0]
