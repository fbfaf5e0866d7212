"""The fields of every NIR primitive: which there are, and what a value must be. One table, one check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurocuda.errors import Problem

Value = np.ndarray | tuple[int, ...] | int | str
"""A checked field: a real array, whole numbers, or the word 'same' or 'valid'."""

SHAPE_DECLARATIONS = frozenset({"shape", "input_shape", "input_type", "output_type"})
"""Fields that state a shape. Shapes are inferred; of these only an Input's shape is taken on trust."""


class _Unfit(Exception):
    """A value that does not fit: what was expected, what was found."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected, self.found = expected, found


@dataclass(frozen=True)
class Field:
    """A field of a primitive. `default` is used where the file has none; without one the field must be there."""

    name: str
    check: Callable[[Any], Value]
    default: float | None = None


def describe(value: object) -> str:
    """A few words on a value, short enough for a message."""
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


def _real(value: Any) -> np.ndarray:
    array = _as_array(value)
    if array is None or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise _Unfit("real numbers of at most 64 bits", describe(value))
    if array.size == 0:
        raise _Unfit("at least one value", f"an empty array of shape {array.shape}")
    _require(array, np.isfinite(array), "finite numbers")
    return array.copy()


def _require(array: np.ndarray, good: np.ndarray, expected: str) -> None:
    if not good.all():
        index = tuple(int(i) for i in np.argwhere(~good)[0])
        raise _Unfit(expected, f"{array[index]} at index {index}" if index else str(array[()]))


def _positive(value: Any) -> np.ndarray:
    array = _real(value)
    _require(array, array > 0, "values > 0")
    return array


def _not_negative(value: Any) -> np.ndarray:
    array = _real(value)
    _require(array, array >= 0, "values >= 0")
    return array


def _float32(value: Any) -> np.ndarray:
    """Numbers that are rounded to float32 when the graph is run."""
    array = _real(value)
    with np.errstate(over="ignore"):
        _require(array, np.isfinite(array.astype(np.float32)), "numbers that float32 holds")
    return array


def _weight(ranks: range, axes: str) -> Callable[[Any], np.ndarray]:
    def check(value: Any) -> np.ndarray:
        array = _float32(value)
        if array.ndim not in ranks:
            raise _Unfit(f"axes {axes}", f"shape {array.shape}")
        return array

    return check


def _is_whole(array: np.ndarray) -> bool:
    """Whether all numbers are whole, and of a size that sizes and axes can have."""
    return bool((np.isfinite(array) & (array == np.trunc(array)) & (np.abs(array.astype(np.float64)) < 2**53)).all())


def _whole(low: int | None, counts: tuple[int, ...]) -> Callable[[Any], tuple[int, ...]]:
    """Whole numbers, at least `low`; as many as the last of `counts`: a single one stands for all."""
    bound = "" if low is None else f" >= {low}"
    noun = "a whole number" if counts == (1,) else f"{' or '.join(str(n) for n in counts)} whole numbers"

    def check(value: Any) -> tuple[int, ...]:
        array = _as_array(value)
        fits = array is not None and array.dtype.kind in "iuf" and array.ndim <= 1 and array.size in counts
        if array is None or not fits or not _is_whole(array):
            raise _Unfit(noun + bound, describe(value))
        numbers = tuple(int(n) for n in array.reshape(-1))
        if low is not None and min(numbers) < low:
            raise _Unfit(noun + bound, describe(value))
        return numbers * counts[-1] if len(numbers) == 1 else numbers

    return check


def _axis(value: Any) -> int:
    return _whole(None, (1,))(value)[0]


def _group_count(value: Any) -> int:
    return _whole(1, (1,))(value)[0]


def _padding(counts: tuple[int, ...]) -> Callable[[Any], Value]:
    def check(value: Any) -> Value:
        word = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if isinstance(word, str):
            if word not in ("same", "valid"):
                raise _Unfit("'same', 'valid' or whole numbers >= 0", repr(word))
            return word
        return _whole(0, counts)(value)

    return check


def declared_shape(value: Any) -> tuple[int, ...]:
    """A shape as files state it: whole numbers >= 1, possibly none (a scalar signal)."""
    array = _as_array(value)
    if array is None or (array.size and array.dtype.kind not in "iuf") or array.ndim > 1:
        raise _Unfit("a shape (whole numbers >= 1)", describe(value))
    if array.size and not (_is_whole(array) and (array >= 1).all()):
        raise _Unfit("a shape (whole numbers >= 1)", describe(value))
    return tuple(int(n) for n in array.reshape(-1))


_ONE, _PAIR = (1,), (1, 2)
_MEMBRANE = (Field("r", _real), Field("v_leak", _real))
_SPIKE = (Field("v_threshold", _real), Field("v_reset", _real, default=0.0))
_SYNAPSE = (Field("tau_syn", _positive), Field("tau_mem", _positive), Field("w_in", _real, default=1.0))
_POOL = tuple(Field(name, _whole(low, _PAIR)) for name, low in (("kernel_size", 1), ("stride", 1), ("padding", 0)))
_MATRIX = Field("weight", _weight(range(2, 33), "(..., out, in)"))


def _convolution(counts: tuple[int, ...], axes: str) -> tuple[Field, ...]:
    rank = 2 + counts[-1]
    return (
        Field("weight", _weight(range(rank, rank + 1), axes)),
        Field("bias", _float32),
        Field("stride", _whole(1, counts)),
        Field("padding", _padding(counts)),
        Field("dilation", _whole(1, counts)),
        Field("groups", _group_count),
    )


PRIMITIVES: Mapping[str, tuple[Field, ...]] = {
    "Input": (),
    "Output": (),
    "Identity": (),
    "Affine": (_MATRIX, Field("bias", _float32)),
    "Linear": (_MATRIX,),
    "Scale": (Field("scale", _float32),),
    "Conv1d": _convolution(_ONE, "(C_out, C_in / groups, K)"),
    "Conv2d": _convolution(_PAIR, "(C_out, C_in / groups, K_y, K_x)"),
    "SumPool2d": _POOL,
    "AvgPool2d": _POOL,
    "Flatten": (Field("start_dim", _axis), Field("end_dim", _axis)),
    "Delay": (Field("delay", _not_negative),),
    "Threshold": (Field("threshold", _float32),),
    "I": (Field("r", _real),),
    "IF": (Field("r", _real), *_SPIKE),
    "LI": (Field("tau", _positive), *_MEMBRANE),
    "LIF": (Field("tau", _positive), *_MEMBRANE, *_SPIKE),
    "CubaLI": (*_SYNAPSE, *_MEMBRANE),
    "CubaLIF": (*_SYNAPSE, *_MEMBRANE, *_SPIKE),
}
"""Every primitive of NIR and its fields. `Identity` is what the Input or Output of an inlined graph becomes."""

SIGNAL_PARAMETERS = frozenset({"scale", "delay", "threshold", "r", "tau", "tau_syn", "tau_mem", "w_in"}) | {
    "v_leak",
    "v_threshold",
    "v_reset",
}
"""Fields whose values belong to elements of the signal: they align with its leading axes."""


def check_fields(name: str, kind: str, fields: Mapping[str, Any]) -> tuple[dict[str, Value], list[Problem]]:
    """The checked parameters of a node of type `kind`, and everything that is wrong with them."""
    parameters: dict[str, Value] = {}
    problems = []
    known = {field.name for field in PRIMITIVES[kind]}
    where = f"node {name!r}"
    for extra in sorted(set(fields) - known - SHAPE_DECLARATIONS - {"type", "metadata"}):
        names = ", ".join(sorted(known)) or "none"
        problems.append(Problem(where, extra, f"only the fields of {kind} ({names})", "an unknown field"))
    for field in PRIMITIVES[kind]:
        value = fields.get(field.name)
        if value is None and field.default is None:
            problems.append(Problem(where, field.name, f"a value (every {kind} has one)", "none"))
            continue
        try:
            parameters[field.name] = field.check(field.default if value is None else value)
        except _Unfit as unfit:
            problems.append(Problem(where, field.name, unfit.expected, unfit.found))
    return parameters, problems


def check_declared_shape(
    name: str, field: str, fields: Mapping[str, Any], owed: bool
) -> tuple[tuple[int, ...] | None, list[Problem]]:
    """The shape that a node states in `field` (None if it states none and owes none), and what is wrong."""
    value = fields.get(field)
    if value is None:
        missing = Problem(f"node {name!r}", field, "a shape (every Input and Output states one)", "none")
        return None, [missing] if owed else []
    try:
        return declared_shape(value), []
    except _Unfit as unfit:
        return None, [Problem(f"node {name!r}", field, unfit.expected, unfit.found)]
