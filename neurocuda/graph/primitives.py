"""`PRIMITIVES`: one record for each primitive. The other packages read it instead of comparing type names.

docs/adding-a-primitive.md names the other places where a primitive has an entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from neurocuda.errors import Problem
from neurocuda.graph import shape_rules
from neurocuda.graph.fields import (
    SHAPE_DECLARATIONS,
    Field,
    Unfit,
    Value,
    finite_or_infinity,
    float32,
    integer,
    integers,
    not_negative,
    padding,
    real,
    time_constant,
    weight,
)
from neurocuda.graph.shape_rules import ShapeRule

T = TypeVar("T")


@dataclass(frozen=True)
class Primitive:
    """The properties of a node type.

    fields: of a file. shape_rule: computes the output shape. shape_field: the field that states an input shape in a
    file. weight_field: the parameter that multiplies the input. spatial_axes: of a convolution or pool.
    averages: a pool that divides by its area. is_neuron: has a membrane potential v. is_leaky: v decays to v_leak.
    emits_spikes: the output is 0 or 1, or a spike count. is_delay: keeps a history of its input. is_terminal: an Input
    or Output of the graph. forwards_values: an inner node whose output has the values of its input, rearranged or
    later. is_rectifier: a ReLU of a traced network.
    """

    name: str
    fields: tuple[Field, ...] = ()
    shape_rule: ShapeRule = shape_rules.same
    shape_field: Literal["shape", "input_shape", "input_type"] | None = None
    weight_field: Literal["weight", "scale"] | None = None
    spatial_axes: Literal[0, 1, 2] = 0
    averages: bool = False
    is_neuron: bool = False
    is_leaky: bool = False
    emits_spikes: bool = False
    is_delay: bool = False
    is_terminal: bool = False
    forwards_values: bool = False
    is_rectifier: bool = False

    @property
    def is_spiking(self) -> bool:
        """A neuron that fires and is reset."""
        return self.is_neuron and self.emits_spikes

    @property
    def has_state(self) -> bool:
        return self.is_neuron or self.is_delay

    @property
    def is_weighted(self) -> bool:
        """A matrix or a convolution."""
        return self.weight_field == "weight"

    @property
    def is_matrix(self) -> bool:
        return self.is_weighted and not self.spatial_axes

    @property
    def is_convolution(self) -> bool:
        return self.is_weighted and self.spatial_axes > 0

    @property
    def is_pool(self) -> bool:
        return self.weight_field is None and self.spatial_axes > 0


def _aligned(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, real, aligned=True) for name in names)


_MEMBRANE = _aligned("r", "v_leak")
_SPIKE = (
    Field("v_threshold", finite_or_infinity, aligned=True),
    Field("v_reset", real, aligned=True, default=0.0),
)
_TAU = Field("tau", time_constant, aligned=True)
_SYNAPSE = (
    Field("tau_syn", time_constant, aligned=True),
    Field("tau_mem", time_constant, aligned=True),
    Field("w_in", real, aligned=True, default=1.0),
)
_MATRIX = Field("weight", weight(range(2, 33), "(..., out, in)"))
_BIAS = Field("bias", float32)
_POOL = tuple(Field(name, integers(low, (1, 2))) for name, low in (("kernel_size", 1), ("stride", 1), ("padding", 0)))


def _convolution(name: str, spatial_axes: Literal[1, 2], weight_axes: str) -> Primitive:
    rank, counts = 2 + spatial_axes, (1, 2)[:spatial_axes]
    fields = (
        Field("weight", weight(range(rank, rank + 1), weight_axes)),
        _BIAS,
        Field("stride", integers(1, counts)),
        Field("padding", padding(counts)),
        Field("dilation", integers(1, counts)),
        Field("groups", integer(1)),
    )
    return Primitive(name, fields, shape_rules.convolution, "input_shape", "weight", spatial_axes)


def _neuron(name: str, *fields: Field) -> Primitive:
    names = {field.name for field in fields}
    return Primitive(name, fields, is_neuron=True, is_leaky="v_leak" in names, emits_spikes="v_threshold" in names)


_RECORDS = (
    Primitive("Input", shape_field="shape", is_terminal=True),
    Primitive("Output", shape_field="shape", is_terminal=True),
    Primitive("Identity", shape_field="shape", forwards_values=True),
    Primitive("Affine", (_MATRIX, _BIAS), shape_rules.matrix, weight_field="weight"),
    Primitive("Linear", (_MATRIX,), shape_rules.matrix, weight_field="weight"),
    Primitive("Scale", (Field("scale", float32, aligned=True),), weight_field="scale"),
    _convolution("Conv1d", 1, "(C_out, C_in / groups, K)"),
    _convolution("Conv2d", 2, "(C_out, C_in / groups, K_y, K_x)"),
    Primitive("SumPool2d", _POOL, shape_rules.pool, spatial_axes=2),
    Primitive("AvgPool2d", _POOL, shape_rules.pool, spatial_axes=2, averages=True),
    Primitive(
        "Flatten",
        (Field("start_dim", integer(None)), Field("end_dim", integer(None))),
        shape_rules.flatten,
        shape_field="input_type",
        forwards_values=True,
    ),
    Primitive("Delay", (Field("delay", not_negative, aligned=True),), is_delay=True, forwards_values=True),
    Primitive("Threshold", (Field("threshold", float32, aligned=True),), emits_spikes=True),
    _neuron("I", *_aligned("r")),
    _neuron("IF", *_aligned("r"), *_SPIKE),
    _neuron("LI", _TAU, *_MEMBRANE),
    _neuron("LIF", _TAU, *_MEMBRANE, *_SPIKE),
    _neuron("CubaLI", *_SYNAPSE, *_MEMBRANE),
    _neuron("CubaLIF", *_SYNAPSE, *_MEMBRANE, *_SPIKE),
)

PRIMITIVES: Mapping[str, Primitive] = {record.name: record for record in _RECORDS}
"""The primitives of NIR, and `Identity`, which the Input or Output of a nested graph becomes."""

TRACED: Mapping[str, Primitive] = {
    "ReLU": Primitive("ReLU", is_rectifier=True),
    "ChannelAffine": Primitive("ChannelAffine"),
}
"""Node types of traced networks alone: conversion replaces a ReLU, and folding a ChannelAffine (scale * x + shift)."""

SIGNAL_PARAMETERS = frozenset(field.name for record in _RECORDS for field in record.fields if field.aligned)
"""The fields that are aligned with the leading axes of the signal."""

MAY_BE_INFINITE = frozenset(
    field.name for record in _RECORDS for field in record.fields if field.check in (time_constant, finite_or_infinity)
)
"""The fields that accept +inf: time constants (no leak) and thresholds of neurons (never fires)."""


def check_fields(name: str, type: str, raw: Mapping[str, Any]) -> tuple[dict[str, Value], list[Problem]]:
    """The checked parameters of node `name`, of this type, and its problems."""
    parameters: dict[str, Value] = {}
    problems = []
    where, fields = f"node {name!r}", PRIMITIVES[type].fields
    known = {field.name for field in fields}
    for extra in sorted(set(raw) - known - SHAPE_DECLARATIONS - {"type", "metadata"}):
        names = ", ".join(sorted(known)) or "none"
        problems.append(Problem(where, extra, f"only the fields of {type} ({names})", "an unknown field"))
    for field in fields:
        value = raw.get(field.name)
        if value is None and field.default is None:
            problems.append(Problem(where, field.name, f"a value (every {type} has one)", "none"))
            continue
        try:
            parameters[field.name] = field.check(field.default if value is None else value)
        except Unfit as unfit:
            problems.append(Problem(where, field.name, unfit.expected, unfit.found))
    return parameters, problems


def complete(table: Mapping[str, T], place: str, types: Mapping[str, object] = PRIMITIVES) -> Mapping[str, T]:
    """Returns `table` if it has an entry for each of `types` and no other.

    place: the file and the name of the table, for the message. Raises `TypeError` naming the primitive.
    """
    for missing in sorted(set(types) - set(table)):
        raise TypeError(f"{place}: expected an entry for every primitive, found none for {missing}")
    for unknown in sorted(set(table) - set(types)):
        raise TypeError(f"{place}: expected primitives of neurocuda/graph/primitives.py, found {unknown}")
    return table
