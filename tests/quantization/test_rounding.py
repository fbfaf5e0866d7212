"""Numbers on grids of powers of two: few bits, the best step, and nothing but that."""

from __future__ import annotations

import numpy as np
import pytest

from neurocuda.quantization.rounding import near, on_grid, on_step, steps_of

RNG = np.random.default_rng(17)

ROWS = {
    "normal numbers": RNG.normal(0, 1, (6, 40)),
    "one large number among small ones": np.concatenate([RNG.normal(0, 1e-3, (4, 60)), np.full((4, 1), 1.0)], 1),
    "a row of zeros": np.array([[0.0, 0.0, 0.0], [0.3, -0.7, 0.1]]),
    "powers of two": np.array([[0.25, -0.5, 4.0], [1.0, 1.0, 1.0], [2.0**-20, 0, 0]]),
    "one number each": RNG.normal(0, 100, (9, 1)),
    "the largest whole number": np.array([[127.0, -127.0], [63.5, 1.0], [127.5, 0.5]]),
    "large and small rows": np.array([[3e38, -1e38], [2e-37, 1e-37], [1e-3, 2e5]]),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("bits", range(2, 9))
def test_rows_of_few_bits_with_the_best_of_three_steps(name: str, bits: int) -> None:
    rows, most = ROWS[name], 2 ** (bits - 1) - 1
    found = on_grid(rows, bits)
    assert np.array_equal(found, found.astype(np.float32))
    for row, got in zip(rows, found, strict=True):
        errors = {}
        for e in range(-126, 128 - bits + 1):
            k = np.clip(np.rint(row / 2.0**e), -most, most)
            errors[e] = ((k * 2.0**e - row) ** 2).sum()
        coarsest = min((e for e in errors if np.abs(row).max() <= most * 2.0**e), default=128 - bits)
        candidates = [errors[max(e, -126)] for e in (coarsest, coarsest - 1, coarsest - 2)]
        assert ((got - row) ** 2).sum() == min(candidates)
        assert not got[row == 0].any()
        step = 2.0 ** min(steps_of(got[None].astype(np.float32), 1)[0], 128)
        assert np.abs(got).max() <= most * step or not got.any()


def test_what_is_on_a_grid_of_so_many_bits_stays() -> None:
    for bits in range(2, 9):
        most = 2 ** (bits - 1) - 1
        rows = np.ldexp(RNG.integers(-most, most + 1, (50, 20)).astype(float), RNG.integers(-30, 30, (50, 1)))
        assert np.array_equal(on_grid(rows, bits), rows)


def test_multiples_of_a_step_half_to_even() -> None:
    found = on_step(np.array([[0.5, 1.5, -0.5, 0.7], [0.5, 1.5, -0.5, 0.7]]), np.array([0, -1]))
    assert found.tolist() == [[0, 2, 0, 1], [0.5, 1.5, -0.5, 0.5]]


@pytest.mark.parametrize(
    ("values", "steps", "expected"),
    [
        (np.array(-1.0), np.array([-3]), -1.0),
        (np.array([0.7, 0.7]), np.array([-1, -20]), [0.69921875, np.rint(0.7 * 2**20) / 2**20]),
        (np.array([0.7]), None, [0.69921875]),
        (np.array([0.0, 0.3]), np.array([2, 2]), [0.0, 0.30078125]),
        (np.array([[0.75, 0.7], [96.3, 1.1]]), np.array([0, 0]), [[0.75, 0.69921875], [96.296875, 1.1015625]]),
    ],
)
def test_values_keep_at_least_their_bits(values: np.ndarray, steps: np.ndarray | None, expected: object) -> None:
    found = near(values, max(values.ndim, 1) if steps is None or steps.size > 1 else 1, 8, steps)
    assert np.array_equal(found.reshape(np.shape(expected)), expected)
