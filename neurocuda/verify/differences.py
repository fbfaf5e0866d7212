"""Compares recordings and states bit for bit, and names the first value that differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from neurocuda.errors import ArgumentError
from neurocuda.runtime.state import State

Recordings = Mapping[str, Mapping[str, Tensor]]
"""Recorded signals [T, B, *shape] by node and quantity."""


@dataclass(frozen=True)
class Difference:
    """The first value that differs from the baseline.

    Args:
        node: Name of the node.
        quantity: "output", "v", "i", or "state v" and so on for the state at the end.
        step: Time step, from 0.
        index: Index in [B, *shape].
        expected: Value of the baseline.
        found: Value of the trial.

    Example:
        >>> from neurocuda.verify import Difference
        >>> print(Difference("lif1", "v", 3, (0, 2), 1.0, 0.5))
        node 'lif1', 'v' at step 3, index (0, 2): 1.0 (0x3f800000) became 0.5 (0x3f000000)
    """

    node: str
    quantity: str
    step: int
    index: tuple[int, ...]
    expected: float
    found: float

    def __str__(self) -> str:
        place = f"node {self.node!r}, {self.quantity!r} at step {self.step}, index {self.index}"
        return f"{place}: {_float32_text(self.expected)} became {_float32_text(self.found)}"


def first_difference(
    expected: Recordings, found: Recordings, order: Sequence[str], start: int = 0
) -> Difference | None:
    """The first value of `found` that differs from `expected`: the earliest time step, then the first node of `order`.

    Nodes in `order` come after the nodes they depend on, so that no earlier difference causes this one. `found` begins
    at time step `start` of `expected`. Equality is that of torch.equal (-0.0 equals 0.0), and NaN equals NaN. Raises
    `ArgumentError` if shapes differ.
    """
    first: Difference | None = None
    for name in order:
        for quantity, trace in expected[name].items():
            baseline, other = trace[start:], found[name][quantity]
            if baseline.shape != other.shape:
                shapes = f"shape {tuple(baseline.shape)}, found {tuple(other.shape)}"
                raise ArgumentError(f"node {name!r}, {quantity!r}: expected {shapes}")
            at = _first_unequal(baseline, other)
            if at is not None and (first is None or at[0] + start < first.step):
                values = float(baseline[at]), float(other[at])
                first = Difference(name, quantity, at[0] + start, at[1:], *values)
    return first


def state_difference(expected: State, found: State, order: Sequence[str], step: int) -> Difference | None:
    """The first value that differs between two states after `step`, nodes in `order`; None if all are equal."""
    rank = {name: number for number, name in enumerate(order)}
    entries = sorted(expected.tensors, key=lambda entry: (rank[entry.rpartition(".")[0]], entry))
    for entry in entries:
        name, _, quantity = entry.rpartition(".")
        at = _first_unequal(expected.tensors[entry], found.tensors[entry])
        if at is not None:
            values = float(expected.tensors[entry][at]), float(found.tensors[entry][at])
            return Difference(name, f"state {quantity}", step, at, *values)
    return None


def _first_unequal(a: Tensor, b: Tensor) -> tuple[int, ...] | None:
    unequal = ~((a == b) | (a.isnan() & b.isnan()))
    if not bool(unequal.any()):
        return None
    return tuple(int(i) for i in unequal.nonzero()[0])


def _float32_text(value: float) -> str:
    """The shortest decimal that rounds to this float32, and its bits."""
    number = np.float32(value)
    return f"{number} (0x{number.view(np.uint32):08x})"
