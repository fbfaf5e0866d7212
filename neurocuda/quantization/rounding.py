"""Rounds rows of numbers to multiples of powers of two."""

from __future__ import annotations

import numpy as np

from neurocuda.compiler import grids
from neurocuda.compiler.grids import HIGHEST, LEAST
from neurocuda.graph import align


def on_step(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Rounds to multiples of 2^step, half to even, with one exponent `steps` for each row."""
    spread = steps.reshape(-1, *(1,) * (values.ndim - 1))
    rounded: np.ndarray = np.ldexp(np.rint(np.ldexp(values, -spread)), spread)
    return rounded


def on_grid(rows: np.ndarray, bits: int) -> np.ndarray:
    """Rows rounded to k * 2^e, |k| < 2^(bits - 1), with the e of the least squared error for each row.

    The candidates are the coarsest spacing, which reaches the largest number, and two finer ones, which clip it.
    """
    most = 2 ** (bits - 1) - 1
    top = np.abs(rows).max(1, initial=0.0)
    mantissa, exponent = np.frexp(top / most)
    coarsest = exponent - (mantissa == 0.5)  # the least 2^e >= top / most
    best, least = np.zeros_like(rows), np.full(len(rows), np.inf)
    for finer in range(3):
        e = np.clip(coarsest - finer, LEAST, HIGHEST + 1 - bits)[:, None]
        found = np.ldexp(np.clip(np.rint(np.ldexp(rows, -e)), -most, most), e)
        error = ((found - rows) ** 2).sum(1)
        better = error < least
        best[better], least[better] = found[better], error[better]
    return best


def near(values: np.ndarray, rank: int, bits: int, steps: np.ndarray | None) -> np.ndarray:
    """Values of a signal's parameter rounded to the spacings of its channels, or to finer ones of `bits` bits."""
    values = align(values, rank).astype(np.float64)
    if steps is not None:
        values = np.broadcast_to(values, (steps.size, *values.shape[1:])) if rank else values
    rows = values.reshape(values.shape[0] if rank else 1, -1)
    own = np.frexp(np.where(rows == 0, np.inf, np.abs(rows)).min(1))[1].astype(np.int64)
    own = np.where((rows != 0).any(1), own, 0)
    fine = own - bits if steps is None else np.clip(steps, own - 24, own - bits)
    return on_step(rows, np.maximum(fine, LEAST)).reshape(values.shape)


def steps_of(values: np.ndarray, rows: int) -> np.ndarray:
    """The exponent of the spacing of the values of each channel."""
    found = grids.lowest_bits(values.reshape(values.shape[0] if values.ndim else 1, -1)).min(1)
    return np.broadcast_to(found, (rows,))
