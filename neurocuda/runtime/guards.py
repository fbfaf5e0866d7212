"""Guards: the conditions that a cached call or a speculative value relies on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor


@dataclass(frozen=True)
class Guards:
    """Conditions on parameters and inputs, which `neurocuda._C` checks together: on a GPU while it computes.

    current, snapshot: tensors that must have the same bits, pair by pair. weights, numbers, scales: float32 weights
    [out, ...] that must equal the int8 numbers times the scale of their output channel. grids: (spacing, lowest,
    highest) of each grid that the input must be on.
    """

    current: Sequence[Tensor] = field(default_factory=list)
    snapshot: Sequence[Tensor] = field(default_factory=list)
    weights: Sequence[Tensor] = field(default_factory=list)
    numbers: Sequence[Tensor] = field(default_factory=list)
    scales: Sequence[Tensor] = field(default_factory=list)
    grids: Sequence[tuple[float, float, float]] = field(default_factory=list)


def merged(guards: Sequence[Guards]) -> tuple[list[Any], ...]:
    """The guards, concatenated field by field for `neurocuda._C.GuardedCall`."""
    fields = ("current", "snapshot", "weights", "numbers", "scales", "grids")
    return tuple([value for one in guards for value in getattr(one, name)] for name in fields)


Value = TypeVar("Value")


@dataclass(frozen=True)
class Speculation(Generic[Value]):
    """A value used speculatively.

    `validate()` waits for the device-side guards; if it returns False, discard the results and run again. None: the
    value is valid. guards: for later calls that use the same value.
    """

    value: Value
    validate: Callable[[], bool] | None = None
    guards: Guards = field(default_factory=Guards)
