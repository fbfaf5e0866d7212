"""`Grid`: the values that a signal can have, and how layers and pools map it.

A float32 sum is exact in any order, with fused multiply-add or not, if all terms are multiples of one power of two, the
spacing, and the sum of their magnitudes is at most 2^24 spacings. All functions here bound from above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from neurocuda.errors import ArgumentError

MOST = 2.0**24
"""float32 represents all multiples of the spacing up to this number."""

_ANY = 2000
"""The exponent of the spacing of a value that is always zero."""

LEAST, HIGHEST = -126, 127
"""Exponents of the least spacing, below which numbers are subnormal, and of the bound of all magnitudes."""

_SUBNORMAL = -300
"""For the exponent of the lowest bit of a subnormal number, which some units take for zero: below any grid."""


@dataclass(frozen=True)
class InputGrid:
    """The promised values of an Input: multiples of `step`, a power of two, from `low` to `high`.

    `low` and `high` are moved to the outermost multiples between them.

    Args:
        step: Spacing of the values.
        low: Lowest value.
        high: Highest value.

    Raises:
        ArgumentError: The spacing is no power of two, or float32 does not represent the bounds.

    Example:
        >>> import neurocuda
        >>> neurocuda.InputGrid(step=0.25, low=0.0, high=1.1).high
        1.0
    """

    step: float = 1.0
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        numbers = [value for value in (self.step, self.low, self.high) if isinstance(value, int | float)]
        if len(numbers) < 3 or not all(map(math.isfinite, numbers)):
            raise ArgumentError(f"input_grid: expected three finite numbers, found {self!r}")
        if self.step <= 0 or math.frexp(self.step)[0] != 0.5 or not LEAST <= self.exponent <= HIGHEST:
            raise ArgumentError(f"input_grid, step: expected a power of two, found {self.step!r}")
        if not self.low <= self.high:
            raise ArgumentError(f"input_grid: expected low <= high, found {self.low!r} and {self.high!r}")
        if max(abs(self.low), abs(self.high)) >= (MOST + 1) * self.step:
            raise ArgumentError(
                f"input_grid: expected bounds within {MOST:.0f} steps, which float32 represents, found {self}"
            )
        low, high = math.ceil(self.low / self.step), math.floor(self.high / self.step)
        if low > high:
            raise ArgumentError(f"input_grid: expected a multiple of the step between low and high, found {self}")
        object.__setattr__(self, "low", low * float(self.step))
        object.__setattr__(self, "high", high * float(self.step))

    @property
    def exponent(self) -> int:
        """The exponent of the step, to base 2."""
        return math.frexp(self.step)[1] - 1

    def __str__(self) -> str:
        return f"multiples of {self.step:g} from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, eq=False)
class Grid:
    """For each channel (the leading axis of a signal): multiples of 2^step, int64 [C], from low to high, float64 [C].

    inputs: the inputs whose promised grids this assumes.
    """

    step: np.ndarray
    low: np.ndarray
    high: np.ndarray
    inputs: frozenset[str] = frozenset()

    @property
    def magnitude(self) -> np.ndarray:
        largest: np.ndarray = np.maximum(np.abs(self.low), np.abs(self.high))
        return largest

    @property
    def coarsest(self) -> int:
        """The exponent of the spacing that all channels share."""
        least = int(self.step.min())
        return 0 if least >= _ANY // 2 else least

    def with_zero(self) -> Grid:
        """With zero among its values, as padding and the step before the first bring it."""
        return replace(self, low=np.minimum(self.low, 0), high=np.maximum(self.high, 0))


@dataclass(frozen=True, eq=False)
class Sum:
    """A sum for each channel: the exponent of its spacing, the bound of its magnitudes, and its value as a grid."""

    step: np.ndarray
    magnitude: np.ndarray
    grid: Grid

    @property
    def steps_used(self) -> float:
        """The bound of the magnitudes in spacings, for the worst channel."""
        return float(np.ldexp(self.magnitude, -np.minimum(self.step, _ANY // 2).astype(np.int32)).max())

    @property
    def exact(self) -> bool:
        """Whether a float32 sum is exact in any order."""
        return self.steps_used <= MOST and int(self.step.min()) >= LEAST and float(self.magnitude.max()) < 2.0**HIGHEST

    @property
    def rounded(self) -> Grid:
        """Bounds of the float32 result where it is not exact: terms that cancel leave the rounding error of their sum.

        For fewer than 2^23 terms, that error is less than the sum of the magnitudes.
        """
        return replace(self.grid, low=-2 * self.magnitude, high=2 * self.magnitude)


def constant(channels: int, step: int, low: float, high: float, inputs: frozenset[str] = frozenset()) -> Grid:
    """The same for every channel."""
    return Grid(
        np.full(channels, step, np.int64),
        np.full(channels, low, np.float64),
        np.full(channels, high, np.float64),
        inputs,
    )


def zero(channels: int) -> Grid:
    return constant(channels, _ANY, 0.0, 0.0)


def lowest_bits(values: np.ndarray) -> np.ndarray:
    """The exponent of the lowest set bit of each float32 number: above all grids for zero, below all for subnormals."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32)
    exponent = (bits >> 23) & 0xFF
    fraction = np.where(exponent == 0, bits & 0x7FFFFF, (bits & 0x7FFFFF) | 0x800000)
    lowest = np.frexp((fraction & -fraction).astype(np.float32))[1].astype(np.int64) - 1
    return np.where(fraction == 0, _ANY, np.where(exponent == 0, _SUBNORMAL, lowest + exponent - 150))


def add(grids: Iterable[Grid], channels: int) -> Sum:
    """The sum of the branches into a node."""
    parts = list(grids) or [zero(channels)]
    step = np.min([part.step for part in parts], axis=0)
    low, high = (np.sum([getattr(part, end) for part in parts], axis=0) for end in ("low", "high"))
    magnitude = np.sum([part.magnitude for part in parts], axis=0)
    inputs = frozenset().union(*(part.inputs for part in parts))
    return Sum(step, magnitude, Grid(step, low, high, inputs))


def layer(weight: np.ndarray, bias: np.ndarray | None, x: Grid, groups: int = 1) -> Sum:
    """A sum for each output channel: weight [out, in / groups, terms] of x [in], bias [out] or [1]."""
    weight = weight.astype(np.float32)
    out, into = weight.shape[:2]

    def of_inputs(values: np.ndarray) -> np.ndarray:
        by_group = np.broadcast_to(values, (groups * into,)).reshape(groups, into)
        return np.repeat(by_group, out // groups, axis=0)

    least = lowest_bits(weight).min(2)
    step = np.where(least >= _ANY, _ANY, least + of_inputs(x.step)).min(1)
    positive = np.maximum(weight, 0).sum(2, dtype=np.float64)
    negative = np.minimum(weight, 0).sum(2, dtype=np.float64)
    low, high = of_inputs(x.low), of_inputs(x.high)
    lowest = (positive * low + negative * high).sum(1)
    highest = (positive * high + negative * low).sum(1)
    magnitude = ((positive - negative) * of_inputs(x.magnitude)).sum(1)
    return _with_bias(Sum(step, magnitude, Grid(step, lowest, highest, x.inputs)), bias, out)


def matrices(weight: np.ndarray, bias: np.ndarray | None, x: Grid) -> Sum:
    """As `layer` for a batch of matrices over the leading axes: weight [channels, ..., out, in], x by channel."""
    weight = weight.astype(np.float32).reshape(weight.shape[0], -1, weight.shape[-1])
    rows = [layer(of_channel[:, :, None], None, _channel(x, place)) for place, of_channel in enumerate(weight)]
    step = np.array([row.step.min() for row in rows])
    magnitude = np.array([row.magnitude.max() for row in rows])
    low = np.array([row.grid.low.min() for row in rows])
    high = np.array([row.grid.high.max() for row in rows])
    total = Sum(step, magnitude, Grid(step, low, high, x.inputs))
    return _with_bias(total, bias, len(rows))


def _channel(x: Grid, place: int) -> Grid:
    one = slice(place, place + 1)
    return Grid(x.step[one], x.low[one], x.high[one], x.inputs)


def _with_bias(total: Sum, bias: np.ndarray | None, channels: int) -> Sum:
    if bias is None:
        return total
    values = bias.astype(np.float32)
    values = np.broadcast_to(values.reshape(-1, 1), (channels, 1)) if values.size == 1 else values.reshape(channels, -1)
    step = np.minimum(total.step, lowest_bits(values).min(1))
    low = total.grid.low + values.min(1)
    high = total.grid.high + values.max(1)
    magnitude = total.magnitude + np.abs(values.astype(np.float64)).max(1)
    return Sum(step, magnitude, Grid(step, low, high, total.grid.inputs))


def pool(x: Grid, area: int, padded: bool) -> Sum:
    """The sum over a window of `area` values."""
    x = x.with_zero() if padded else x
    grid = replace(x, low=x.low * area, high=x.high * area)
    return Sum(grid.step, x.magnitude * area, grid)


def scaled(x: Grid, scale: np.ndarray) -> Sum:
    """Each value times a number: scale [channels or 1, ...]."""
    values = scale.astype(np.float32).reshape(scale.shape[0] if scale.ndim else 1, -1)
    values = np.broadcast_to(values, (x.step.size, values.shape[1]))
    step = np.minimum(lowest_bits(values).min(1) + x.step, _ANY)
    ends = values.astype(np.float64)[:, :, None] * np.stack([x.low, x.high], -1)[:, None, :]
    grid = Grid(step, ends.min((1, 2)), ends.max((1, 2)), x.inputs)
    return Sum(step, grid.magnitude, grid)


def divided(x: Grid, area: int) -> Grid | None:
    """Each value over `area`; None where that is no power of two, or too large a one."""
    power = area.bit_length() - 1
    if area != 1 << power or int(x.step.min()) - power < LEAST:
        return None
    return replace(x, step=x.step - power, low=x.low / area, high=x.high / area)


def flattened(x: Grid, channels: int) -> Grid:
    """With further axes merged into the leading one."""
    repeats = max(1, channels // x.step.size)
    return Grid(np.repeat(x.step, repeats), np.repeat(x.low, repeats), np.repeat(x.high, repeats), x.inputs)
