"""The conversions of SpikingJelly's `ann2snn`, as its own examples call them, on the same images.

For convolutional networks it has rate coding (`RateCodingRecipe`) with the maximum or a percentile as threshold, plain or
with what its examples call robust (a threshold for each channel, half of it at the start, MaxPool before the spike), and
local threshold balancing, whose thresholds grow with each batch: it goes through the images `PASSES` times, in small
batches; its other recipes are for transformers and for networks trained with quantisation. Read-out
starts at once, or after the delay that its `estimate_delay_start` finds; where it does not want one, it says so.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable

import torch
from spikingjelly.activation_based import ann2snn, functional
from torch import Tensor, nn

_BATCH = 100
PASSES = 25

Images = list[Tensor]

RECIPES: dict[str, Callable[[Images], ann2snn.ConversionRecipe]] = {
    "maximum": lambda images: ann2snn.RateCodingRecipe(images, mode="Max"),
    "99.9 %": lambda images: ann2snn.RateCodingRecipe(images, mode="99.9%"),
    "maximum, robust": lambda images: _robust(images, "Max"),
    "99.9 %, robust": lambda images: _robust(images, "99.9%"),
    "99 %, robust": lambda images: _robust(images, "99%"),
    "local threshold balancing": lambda images: ann2snn.LocalThresholdBalancingRecipe(_many(images)),
}


def _robust(images: Images, mode: str) -> ann2snn.ConversionRecipe:
    options = {"channel_wise": True, "pre_spike_maxpool": True, "half_threshold": True}
    return ann2snn.RateCodingRecipe(images, mode=mode, **options)


def _many(images: Images) -> Images:
    return [part for _ in range(PASSES) for batch in images for part in batch.split(20)]


def converted(recipe: str, network: nn.Module, calibration: Tensor) -> nn.Module:
    """The network of one of the `RECIPES`; the original is left as it was."""
    images = list(calibration.split(_BATCH))
    with _quiet():
        snn: nn.Module = ann2snn.Converter(RECIPES[recipe](images)).convert(copy.deepcopy(network).eval())
    return snn.eval()


def delay(snn: nn.Module, calibration: Tensor, steps: int) -> int:
    """The steps before read-out that SpikingJelly finds for a run of so many in all."""
    with _quiet():
        found: int = ann2snn.estimate_delay_start(snn, list(calibration.split(_BATCH)), "cpu", steps)
    return found


def outputs(snn: nn.Module, images: Tensor, steps: int) -> Tensor:
    """The sum of the outputs up to each step, [steps, N, classes]."""
    parts = []
    with torch.no_grad():
        for x in images.split(_BATCH):
            functional.reset_net(snn)
            x = x.contiguous(memory_format=torch.channels_last)
            parts.append(torch.stack([snn(x) for _ in range(steps)]).double().cumsum(0))
    return torch.cat(parts, 1)


@contextlib.contextmanager
def _quiet() -> object:
    """Without its progress bars and warnings."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
