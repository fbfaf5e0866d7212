"""Operators bound to their operands: callables that take what changes from call to call, the signal and the state.

On the native backend they are `functools.partial`s of the registered operators, without Python code of ours in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from neurocuda.ops import native
from neurocuda.ops.coefficients import NeuronCoefficients, NeuronState, schema_arguments
from neurocuda.ops.reference import Pads
from neurocuda.ops.surrogate import Surrogate

Layer = Callable[[Tensor], Tensor]
"""Frames [N, *shape] to the output of a layer."""

Population = Callable[..., tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]]
"""(branches, v, i, *, dtype, trace_v, trace_i) to (output, v, i, trace of v, trace of i)."""


def neuron(operators: ModuleType, c: NeuronCoefficients, surrogate: Surrogate, branches: int) -> Population:
    """The update of a population with that many branches."""
    if operators is not native or branches > native.MAX_BRANCHES:
        return partial(_neuron, operators, c, surrogate)
    names = ("decay_v", "gain_v", "bias_v", "decay_i", "gain_i", "threshold", "v_reset", "v_min")
    flags = ("reaching", "subtract", "previous", "many", "late")
    _, _, *values = schema_arguments(c, NeuronState(c.decay_v))
    return partial(
        torch.ops.neurocuda.neuron.default,
        **dict(zip((*names, *flags), values, strict=True)),
        surrogate=surrogate.kind,
        slope=surrogate.slope,
    )


def _neuron(
    operators: ModuleType,
    c: NeuronCoefficients,
    surrogate: Surrogate,
    branches: Sequence[Tensor],
    v: Tensor,
    i: Tensor | None,
    *,
    dtype: torch.dtype = torch.float32,
    trace_v: bool = False,
    trace_i: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    record = [name for name, wanted in (("v", trace_v), ("i", trace_i)) if wanted]
    narrow = {} if dtype == torch.float32 else {"dtype": dtype}
    output, after, traces = operators.neuron(branches, c, NeuronState(v, i), surrogate, record, **narrow)
    return output, after.v, after.i, traces.get("v"), traces.get("i")


def linear(operators: ModuleType, weight: Tensor, bias: Tensor | None, prepacked: Tensor | None) -> Layer:
    """A matrix product in the defined order."""
    if operators is not native:
        return partial(operators.ordered_linear, weight=weight, bias=bias)
    return partial(torch.ops.neurocuda.ordered_linear.default, weight=weight, bias=bias, prepacked=prepacked)


def convolution(
    operators: ModuleType,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    pads: Pads,
    dilation: Sequence[int],
    groups: int,
    prepacked: Tensor | None,
) -> Layer:
    """A convolution in the defined order."""
    geometry: dict[str, Any] = {"stride": list(stride), "dilation": list(dilation), "groups": groups}
    if operators is not native:
        return partial(operators.ordered_conv, weight=weight, bias=bias, pads=pads, **geometry)
    flat = [zeros for axis in pads for zeros in axis]
    operator = torch.ops.neurocuda.ordered_conv.default
    return partial(operator, weight=weight, bias=bias, pads=flat, prepacked=prepacked, **geometry)


def pool(
    operators: ModuleType, averages: bool, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Layer:
    """A sum or average pool."""
    window = {"kernel": list(kernel), "stride": list(stride), "padding": list(padding)}
    if operators is not native:
        return partial(operators.avg_pool2d if averages else operators.sum_pool2d, **window)
    ops = torch.ops.neurocuda
    return partial(ops.avg_pool2d.default if averages else ops.sum_pool2d.default, **window)
