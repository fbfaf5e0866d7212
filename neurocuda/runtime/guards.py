"""Guards: what a cached call or a speculative value relies on, and checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor


@dataclass(frozen=True)
class Guards:
    """Conditions on parameters and inputs, checked in one go by `neurocuda._C`: at once on a CPU, on a GPU while it
    computes.

    current, snapshot: tensors that must have the same bits, pair by pair. weights [out, ...] must equal the int8
    `numbers` times the scale of each output channel, `scales`. The input must lie on each of `grids`: (spacing, lowest,
    highest).
    """

    current: Sequence[Tensor] = field(default_factory=list)
    snapshot: Sequence[Tensor] = field(default_factory=list)
    weights: Sequence[Tensor] = field(default_factory=list)
    numbers: Sequence[Tensor] = field(default_factory=list)
    scales: Sequence[Tensor] = field(default_factory=list)
    grids: Sequence[tuple[float, float, float]] = field(default_factory=list)


def merged(guards: Sequence[Guards]) -> tuple[list[Any], ...]:
    """All of these, field by field, as `neurocuda._C.GuardedCall` takes them."""
    fields = ("current", "snapshot", "weights", "numbers", "scales", "grids")
    return tuple([value for one in guards for value in getattr(one, name)] for name in fields)


Value = TypeVar("Value")


@dataclass(frozen=True)
class Speculation(Generic[Value]):
    """A value used speculatively.

    `validate()` waits for the device-side guards; if it returns False, discard the results and run again. None: the
    value is valid. guards: what a later call that reuses the value has to check.
    """

    value: Value
    validate: Callable[[], bool] | None = None
    guards: Guards = field(default_factory=Guards)
