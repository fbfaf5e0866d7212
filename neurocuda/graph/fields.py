"""The fields of a primitive, and the checks of their values in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

Shape = tuple[int, ...]

Value = np.ndarray | tuple[int, ...] | int | str
"""A checked field: a real array, integers, or the word 'same' or 'valid'."""

SHAPE_DECLARATIONS = frozenset({"shape", "input_shape", "input_type", "output_type"})
"""Fields that state a shape. Shapes are inferred; only the shape of an Input is read from its field."""


def parameter(parameters: Mapping[str, Value], name: str, type: type[T]) -> T:
    """A parameter of the type that its primitive's record ensures."""
    value = parameters[name]
    assert isinstance(value, type), name
    return value


class Unfit(Exception):
    """A field that does not fit: what was expected, what was found."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected, self.found = expected, found


@dataclass(frozen=True)
class Field:
    """A field of a primitive.

    aligned: an array whose axes align with the leading axes of the signal. default: used where the file has no value;
    without a default the field is required.
    """

    name: str
    check: Callable[[Any], Value]
    aligned: bool = False
    default: float | None = None


def describe(value: object) -> str:
    """A short description of a value, for a message."""
    if isinstance(value, bytes | str):
        return repr(value) if len(value) <= 40 else f"{value[:37]!r}..."
    if isinstance(value, Mapping):
        return "a group"
    array = _as_array(value)
    if array is None or array.dtype.kind not in "biufcO":
        return f"a value of type {type(value).__name__}"
    if array.size <= 6:
        return f"an array {array.tolist()}" if array.dtype.kind == "O" else str(array.tolist())
    return f"an array of shape {array.shape} and type {array.dtype}"


def _as_array(value: object) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        return None


def real(value: Any) -> np.ndarray:
    array = _numbers(value)
    _require(array, np.isfinite(array), "finite numbers")
    return array.copy()


def _numbers(value: Any) -> np.ndarray:
    array = _as_array(value)
    if array is None or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise Unfit("real numbers of at most 64 bits", describe(value))
    if array.size == 0:
        raise Unfit("at least one value", f"an empty array of shape {array.shape}")
    return array


def _require(array: np.ndarray, good: np.ndarray, expected: str) -> None:
    if not good.all():
        index = tuple(int(i) for i in np.argwhere(~good)[0])
        raise Unfit(expected, f"{array[index]} at index {index}" if index else str(array[()]))


def time_constant(value: Any) -> np.ndarray:
    """Checks for values > 0. Infinity is no leak."""
    array = finite_or_infinity(value)
    _require(array, array > 0, "values > 0")
    return array


def finite_or_infinity(value: Any) -> np.ndarray:
    """Checks for finite numbers or +inf. A threshold of infinity never fires."""
    array = _numbers(value)
    _require(array, np.isfinite(array) | (array == np.inf), "finite numbers or inf")
    return array.copy()


def not_negative(value: Any) -> np.ndarray:
    array = real(value)
    _require(array, array >= 0, "values >= 0")
    return array


def float32(value: Any) -> np.ndarray:
    """Checks for numbers in the range of float32, to which a run rounds them."""
    array = real(value)
    with np.errstate(over="ignore"):
        _require(array, np.isfinite(array.astype(np.float32)), "numbers in the range of float32")
    return array


def weight(ranks: range, axes: str) -> Callable[[Any], np.ndarray]:
    def check(value: Any) -> np.ndarray:
        array = float32(value)
        if array.ndim not in ranks:
            raise Unfit(f"axes {axes}", f"shape {array.shape}")
        return array

    return check


def _are_integers(array: np.ndarray) -> bool:
    """Whether all numbers are integers within the range of sizes and axes."""
    return bool((np.isfinite(array) & (array == np.trunc(array)) & (np.abs(array.astype(np.float64)) < 2**53)).all())


def integers(low: int | None, counts: tuple[int, ...]) -> Callable[[Any], tuple[int, ...]]:
    """Checks for integers >= `low`, as many as one of `counts`; a single one is repeated to the last of `counts`."""
    bound = "" if low is None else f" >= {low}"
    noun = "an integer" if counts == (1,) else f"{' or '.join(str(n) for n in counts)} integers"

    def check(value: Any) -> tuple[int, ...]:
        array = _as_array(value)
        fits = array is not None and array.dtype.kind in "iuf" and array.ndim <= 1 and array.size in counts
        if array is None or not fits or not _are_integers(array):
            raise Unfit(noun + bound, describe(value))
        numbers = tuple(int(n) for n in array.reshape(-1))
        if low is not None and min(numbers) < low:
            raise Unfit(noun + bound, describe(value))
        return numbers * counts[-1] if len(numbers) == 1 else numbers

    return check


def integer(low: int | None) -> Callable[[Any], int]:
    return lambda value: integers(low, (1,))(value)[0]


def padding(counts: tuple[int, ...]) -> Callable[[Any], Value]:
    def check(value: Any) -> Value:
        word = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if isinstance(word, str):
            if word not in ("same", "valid"):
                raise Unfit("'same', 'valid' or integers >= 0", repr(word))
            return word
        return integers(0, counts)(value)

    return check


def declared_shape(value: Any) -> Shape:
    """Checks for a shape: integers >= 1, or none for a scalar signal."""
    array = _as_array(value)
    fits = array is not None and array.ndim <= 1 and (array.size == 0 or array.dtype.kind in "iuf")
    if array is None or not fits or (array.size and not (_are_integers(array) and (array >= 1).all())):
        raise Unfit("a shape (integers >= 1)", describe(value))
    return tuple(int(n) for n in array.reshape(-1))
