"""`convert`: converts a trained network of ReLUs into a spiking network, without training.

Thresholds are percentiles of the activations of each channel on some samples (Rueckauer et al. 2017); the percentile is
the one whose result agrees best with the original. Neurons start at half their threshold (Bu et al. 2022), and the
output is read after firing rates have settled.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from neurocuda.convert.bias_correction import corrected
from neurocuda.convert.calibration_data import Samples, take
from neurocuda.convert.evaluate import difference, is_classes, measure
from neurocuda.convert.progress import progress
from neurocuda.convert.relu_network import cap, evaluate, rectifiers
from neurocuda.convert.snn import SNN
from neurocuda.convert.thresholds import ChannelHistograms, thresholds
from neurocuda.convert.tracing.tracer import trace
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, NeuroCUDAWarning, check_integer
from neurocuda.graph import Graph
from neurocuda.quantization.quantize import checked_bits, input_grid

PERCENTILES = (96.0, 97.0, 98.0, 99.0, 99.5, 99.9)
_TOLERANCE = 1e-3


def convert(
    model: nn.Module,
    data: Any,
    *,
    timesteps: int = 32,
    readout_delay: int = 8,
    total_steps: int | None = None,
    samples: int | None = 400,
    percentile: float | Sequence[float] = PERCENTILES,
    dt: float = 1e-4,
    weight_bits: int | None = None,
    report: bool = True,
) -> SNN:
    """Converts a trained model with ReLU activations into a spiking network.

    Each ReLU becomes a population of soft-reset integrate-and-fire neurons, whose firing rate is the activation in
    units of a threshold per channel (Rueckauer et al., Frontiers in Neuroscience 11, 2017; soft reset and the initial
    potential of half a threshold: docs/converting.md). The model runs in eval mode; its parameters, buffers and mode
    are restored. The same model and data result in the same network, bit for bit.

    Args:
        model: The trained model.
        data: Calibration data as the network will receive them: a tensor [N, *shape], a pair (samples, labels), a
            dataset, a loader or any iterable of batches. Labels serve the report alone.
        timesteps: Time steps whose mean output is the result.
        readout_delay: Time steps before these, in which firing rates settle.
        total_steps: Instead of these two: the sum of both, of which the best split is chosen.
        samples: How many of the first samples are used; None: all.
        percentile: Thresholds are this percentile of each channel's activations above zero; of several, the one whose
            result agrees best with the model on the samples.
        dt: Length of a time step in seconds, for which the graph is written.
        weight_bits: Quantizes the weights to so many bits, so that sums are exact in any order (see `quantize`); the
            input is then rounded to `snn.input_grid`, which the samples determine. None: float32.
        report: Whether to measure `snn.report`, which takes 72 steps of all samples.

    Returns:
        The spiking network, with its report.

    Raises:
        UnsupportedModuleError: A module has no spiking counterpart.
        ArgumentError: The data or another argument does not fit.

    Warns with `NeuroCUDAWarning` of channels that never fire, and of a quantized network that is not exact.

    Example:
        >>> import neurocuda, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> snn = neurocuda.convert(model, torch.rand(16, 4), report=False)
        >>> snn(torch.rand(2, 4)).shape
        torch.Size([2, 3])
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model: expected a torch.nn.Module, found a {type(model).__name__}")
    check_integer("timesteps", timesteps, 1)
    check_integer("readout_delay", readout_delay, 0)
    if total_steps is not None:
        check_integer("total_steps", total_steps, 1)
    if weight_bits is not None:
        checked_bits("weight_bits", weight_bits)
    Discretization(dt=dt)  # raises for an invalid dt
    percentiles = _percentiles(percentile)
    inputs = take(data, samples)
    with _evaluated(model), torch.no_grad(), progress() as bar:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        inputs = replace(inputs, batches=tuple(x.to(device) for x in inputs.batches))
        graph = trace(model, inputs.batches[0][:1])
        if not rectifiers(graph):
            raise ArgumentError("model: expected at least one ReLU, whose activations become spikes, found none")
        originals, histograms = _calibrate(model, graph, inputs, bar)
        _warn_of_dead(histograms)
        grid = None if weight_bits is None else input_grid([x.float().cpu().numpy() for x in inputs.batches])
        together = torch.cat(inputs.batches)
        tried: list[_Candidate] = []
        task = bar.add_task("choosing thresholds", total=len(percentiles) * len(inputs.batches))
        for percent in percentiles:
            theta = {
                name: thresholds(histogram, percent, cap(graph.nodes[name])).numpy()
                for name, histogram in histograms.items()
            }
            better = corrected(graph, theta, together)
            snn = SNN(
                better,
                theta,
                timesteps=timesteps,
                readout_delay=readout_delay,
                dt=dt,
                weight_bits=weight_bits,
                input_grid=grid,
                samples=together,
            ).to(device)
            if len(percentiles) == 1 and total_steps is None:
                tried = [_Candidate(0.0, percent, readout_delay, snn)]
                break
            steps = total_steps or readout_delay + timesteps
            sums = []
            for x in inputs.batches:
                sums.append(snn.steps(x, steps).double().cumsum(0))
                bar.advance(task)
            tried += _judged(percent, snn, torch.cat(sums, 1), torch.cat(originals), total_steps is not None)
        best = min(tried, key=lambda candidate: candidate.distance)
        snn = best.snn
        snn.percentile, snn.readout_delay = best.percentile, best.readout_delay
        snn.timesteps = timesteps if total_steps is None else total_steps - best.readout_delay
        _warn_of_inexact(snn)
        if report:
            distances = {c.percentile: c.distance for c in tried if c.readout_delay == best.readout_delay}
            snn.report = replace(measure(snn, inputs, originals), percentile=best.percentile, candidates=distances)
    return snn


@dataclass(frozen=True)
class _Candidate:
    """A candidate network, and the distance of its result from the original's."""

    distance: float
    percentile: float
    readout_delay: int
    snn: SNN


def _judged(percent: float, snn: SNN, sums: Tensor, original: Tensor, all_delays: bool) -> list[_Candidate]:
    """The candidate of a percentile, or one for each delay that leaves a step to read.

    sums: of the outputs up to each step, [steps, N, *].
    """
    candidates = []
    for delay in range(len(sums)) if all_delays else [snn.readout_delay]:
        before = sums[delay - 1] if delay else 0
        result = (sums[-1] - before) / (len(sums) - delay)
        candidates.append(_Candidate(_disagreement(result, original), percent, delay, snn))
    return candidates


def _calibrate(
    model: nn.Module, graph: Graph, inputs: Samples, bar: Progress
) -> tuple[list[Tensor], dict[str, ChannelHistograms]]:
    """The output of the model for each batch, and the histograms of its ReLUs."""
    names = rectifiers(graph)
    histograms: dict[str, ChannelHistograms] = {}
    originals = []
    for number, x in enumerate(bar.track(inputs.batches, description="calibrating")):
        original = model(x)
        if not isinstance(original, Tensor):
            raise ArgumentError(f"model: expected it to return a tensor, found a {type(original).__name__}")
        outputs, activations = evaluate(graph, x.float(), record=names)
        for name in names:
            _check_finite(name, activations[name], number)
            histograms.setdefault(name, ChannelHistograms(activations[name].shape[1])).add(activations[name])
        _check_same(original, outputs, number)
        originals.append(original)
    return originals, histograms


def _check_finite(name: str, activations: Tensor, number: int) -> None:
    if not bool(activations.isfinite().all()):
        raise ArgumentError(
            f"model, {name!r}: expected finite activations, found NaN or infinite ones in batch {number}"
        )


def _check_same(original: Tensor, traced: Tensor, number: int) -> None:
    """Raises `ArgumentError` if the trace does not compute the model, as for control flow that depends on data."""
    if original.shape != traced.shape:
        found = f"{tuple(traced.shape)} in place of {tuple(original.shape)}"
        raise ArgumentError(f"model: expected its trace to return the shape of its output, found shape {found}")
    if not bool(original.isfinite().all()):
        raise ArgumentError(f"model: expected finite results, found NaN or infinite ones in batch {number}")
    off = difference(traced.double(), original.double())
    if off > _TOLERANCE:
        raise ArgumentError(
            f"model: expected its trace to compute its output, found a difference of {100 * off:.3g} % in batch "
            f"{number}; the operations of a model must not depend on the values of its input"
        )


def _warn_of_dead(histograms: Mapping[str, ChannelHistograms]) -> None:
    dead = {name: int(h.dead.sum()) for name, h in histograms.items() if bool(h.dead.any())}
    if dead:
        listed = ", ".join(f"{name!r} {n} of {len(histograms[name].dead)}" for name, n in list(dead.items())[:5])
        more = f" and {len(dead) - 5} layers more" if len(dead) > 5 else ""
        warnings.warn(
            f"channels that were always zero on these samples take the median threshold of their layer: {listed}{more}",
            NeuroCUDAWarning,
            stacklevel=3,
        )


def _warn_of_inexact(snn: SNN) -> None:
    first = None if snn.quantized is None else snn.quantized.certificate.first
    if first is not None:
        warnings.warn(f"weight_bits: not all sums are exact, first {first}", NeuroCUDAWarning, stacklevel=3)


def _disagreement(y: Tensor, original: Tensor) -> float:
    """The distance of a result from the original's, without labels.

    For class scores: the share of samples of another class plus the Kullback-Leibler divergence of the softmax, which
    is informative for few samples. Otherwise: the relative root mean square difference.
    """
    y, original = y.double(), original.double()
    if not is_classes(original):
        return difference(y, original)
    found, expected = y.log_softmax(1), original.log_softmax(1)
    other = float((found.argmax(1) != expected.argmax(1)).double().mean())
    return other + float(functional.kl_div(found, expected, reduction="batchmean", log_target=True))


def _percentiles(percentile: float | Sequence[float]) -> tuple[float, ...]:
    values = percentile if isinstance(percentile, Sequence) else (percentile,)
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 100:
            raise ArgumentError(f"percentile: expected numbers above 0 and at most 100, found {value!r}")
    if not values:
        raise ArgumentError("percentile: expected at least one, found none")
    return tuple(dict.fromkeys(float(value) for value in values))


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Sets the model to eval mode, and restores the mode of each module at exit."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
