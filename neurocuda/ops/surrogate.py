"""Spikes and their surrogate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from neurocuda.errors import ArgumentError
from neurocuda.ops.coefficients import SpikesPerStep, SpikeWhen

SurrogateKind = Literal["fast-sigmoid", "arctan", "triangle"]


@dataclass(frozen=True)
class Surrogate:
    """Surrogate gradient: the function that replaces the derivative of a spike in the backward pass.

    With slope a and the distance d = u - threshold:

        fast-sigmoid    1 / (1 + a |d|)^2               Zenke & Ganguli 2018
        arctan          1 / (1 + (pi a d / 2)^2)        Fang et al. 2021
        triangle        max(0, 1 - a |d|)               Bellec et al. 2018

    Each is 1 at the threshold. With several spikes per step, d is the distance to the nearest positive multiple of the
    threshold. Gradients pass through the spike and the membrane potential, not through the reset.

    Args:
        kind: "fast-sigmoid" (default), "arctan" or "triangle".
        slope: a > 0, per unit of membrane potential; default 10.

    Raises:
        ArgumentError: An unknown kind, or a slope that is not a finite number > 0.

    Example:
        >>> from neurocuda import Surrogate, nn
        >>> lif = nn.LIF(tau=1e-3, surrogate=Surrogate("arctan", slope=2.0))
    """

    kind: SurrogateKind = "fast-sigmoid"
    slope: float = 10.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(SurrogateKind):
            raise ArgumentError(f"surrogate, kind: expected one of {get_args(SurrogateKind)}, found {self.kind!r}")
        number = isinstance(self.slope, int | float) and not isinstance(self.slope, bool)
        if not (number and math.isfinite(self.slope) and self.slope > 0):
            raise ArgumentError(f"surrogate, slope: expected a finite number > 0, found {self.slope!r}")


def surrogate_derivative(distance: Tensor, surrogate: Surrogate) -> Tensor:
    """The derivative of a spike at `distance` from the threshold, elementwise."""
    if surrogate.kind == "fast-sigmoid":
        return (1 + surrogate.slope * distance.abs()).square().reciprocal()
    if surrogate.kind == "arctan":
        return (1 + (math.pi / 2 * surrogate.slope * distance).square()).reciprocal()
    return (1 - surrogate.slope * distance.abs()).clamp(min=0)


def spikes_of(u: Tensor, threshold: Tensor, when: SpikeWhen, per_step: SpikesPerStep) -> Tensor:
    """The spikes of membrane potential `u`, in its dtype, without a gradient."""
    if per_step == "many":
        return (u / threshold).floor().clamp(min=0)
    return (u > threshold if when == "above" else u >= threshold).to(u.dtype)


def spike(u: Tensor, threshold: Tensor, when: SpikeWhen, per_step: SpikesPerStep, surrogate: Surrogate) -> Tensor:
    """The spikes of membrane potential `u`, with the surrogate gradient to `u` and to `threshold`."""
    if torch.is_grad_enabled() and (u.requires_grad or threshold.requires_grad):
        apply: Callable[..., Tensor] = _Spike.apply
        return apply(u, threshold, when, per_step, surrogate)
    return spikes_of(u, threshold, when, per_step)


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(u: Tensor, threshold: Tensor, when: SpikeWhen, per_step: SpikesPerStep, surrogate: Surrogate) -> Tensor:
        return spikes_of(u, threshold, when, per_step)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.per_step, ctx.surrogate = inputs[3:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        u, threshold = ctx.saved_tensors
        nearest = threshold
        if ctx.per_step == "many":
            nearest = threshold * (u / threshold).round().clamp(min=1)
        slope = gradients[0] * surrogate_derivative(u - nearest, ctx.surrogate)
        return slope, (-slope).sum_to_size(threshold.shape), None, None, None
