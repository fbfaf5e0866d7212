"""What a call looks at before its results count: values that it rests on, of parameters and of its only input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Looks:
    """That tensors have the bits they had then; that weights [out, ...] are whole numbers times the step of their
    output channel; that the input is on grids, each a step, the lowest and the highest value.
    """

    now: list[Tensor] = field(default_factory=list)
    then: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    numbers: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    grids: list[tuple[float, float, float]] = field(default_factory=list)


def together(looks: Sequence[Looks]) -> tuple[list[Any], ...]:
    """All of them, as `neurocuda._C` takes them."""
    fields = ("now", "then", "weights", "numbers", "steps", "grids")
    return tuple([value for look in looks for value in getattr(look, name)] for name in fields)
