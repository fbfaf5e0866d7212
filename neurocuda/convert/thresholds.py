"""Activations of one channel over many batches as a histogram, and thresholds from it."""

from __future__ import annotations

import torch
from torch import Tensor

_LOWEST, _HIGHEST = -30, 20
_MANTISSA = 5
_BINS = (_HIGHEST - _LOWEST << _MANTISSA) + 1
_SHIFT = 23 - _MANTISSA
_FIRST = (_LOWEST + 127) << _MANTISSA


class ChannelHistograms:
    """Histogram and maximum of the activations of one rectifier, for each channel.

    A bin has the values whose exponent and first 5 bits of mantissa agree: 32 bins per octave from 2^-30 to 2^20, and
    one for all smaller values. The result does not depend on the order and sizes of batches, and needs no range in
    advance.
    """

    def __init__(self, channels: int) -> None:
        self.counts = torch.zeros(channels, _BINS, dtype=torch.int64)
        self.highest = torch.zeros(channels)

    def add(self, activations: Tensor) -> None:
        """Count the activations [B, C, *] >= 0, float32, of a batch."""
        rows = activations.detach().movedim(1, 0).flatten(1).cpu().contiguous()
        bits = rows.view(torch.int32) >> _SHIFT  # of floats >= 0, in ascending order
        bins = (bits - (_FIRST - 1)).clamp_(0, _BINS - 1)
        bins += torch.arange(len(rows), dtype=torch.int32)[:, None] * _BINS
        self.counts += torch.bincount(bins.flatten(), minlength=self.counts.numel()).view_as(self.counts)
        self.highest = torch.maximum(self.highest, rows.amax(1))

    @property
    def dead(self) -> Tensor:
        """Which channels were always zero."""
        return self.highest == 0

    def percentile(self, percent: float) -> Tensor:
        """The value that `percent` of each channel's values above zero do not exceed, float64: at 100 the maximum.

        Found to within a 32nd of itself, by interpolation within a bin; 0 of a dead channel.
        """
        if percent == 100:
            return self.highest.double()
        counts = torch.cat([torch.zeros_like(self.counts[:, :1]), self.counts[:, 1:]], 1)
        reached = counts.cumsum(1).double()
        target = reached[:, -1:] * (percent / 100)
        which = (reached < target).sum(1, keepdim=True).clamp(max=_BINS - 1)
        inside = counts.gather(1, which).double().clamp(min=1)
        share = 1 - (reached.gather(1, which) - target) / inside
        low, high = _edge(which - 1), _edge(which)
        value = torch.where(which > 0, low + share * (high - low), 0.0)[:, 0]
        return torch.minimum(value, self.highest.double())


def _edge(number: Tensor) -> Tensor:
    """The upper edge of a bin."""
    octave, part = number >> _MANTISSA, number & ((1 << _MANTISSA) - 1)
    return torch.ldexp(1 + part.double() / (1 << _MANTISSA), octave + _LOWEST)


def thresholds(histograms: ChannelHistograms, percent: float, cap: float | None = None) -> Tensor:
    """theta of each channel, float64 > 0: a percentile of its activations above zero, at most `cap` (6 for ReLU6).

    A dead channel takes the median of the others, or 1 where all are dead.
    """
    theta = histograms.percentile(percent)
    live = theta > 0
    theta = torch.where(live, theta, theta[live].median() if bool(live.any()) else torch.ones(()).double())
    return theta if cap is None else theta.clamp(max=cap)
