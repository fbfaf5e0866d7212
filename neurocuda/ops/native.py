"""The native operators (C++ and CUDA in `neurocuda._C`): the signatures and the bits of `reference`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from neurocuda.ops import reference
from neurocuda.ops.coefficients import NeuronCoefficients, NeuronState, schema_arguments
from neurocuda.ops.reference import Pads
from neurocuda.ops.surrogate import Surrogate

MAX_BRANCHES = 8
"""Branches that one operator sums."""


def all_finite(x: Tensor) -> bool:
    """Whether every element is finite."""
    result: bool = importlib.import_module("neurocuda._C").all_finite(x)
    return result


def start_finite_check(signals: Sequence[Tensor]) -> Callable[[], bool]:
    """As `reference.start_finite_check`; on a GPU the check is queued, and its result waits for nothing behind it."""
    checks = device_checks()
    checks.ask_finite(list(signals))
    wait: Callable[[], bool] = checks.wait
    return wait


def device_checks() -> Any:
    """A set of checks of tensor values, queued on the device; its `wait()` returns whether all of them hold."""
    return importlib.import_module("neurocuda._C").Answer()


def empty_float32(sizes: Sequence[int], device: torch.device) -> Tensor:
    """An uninitialized float32 tensor; on a CPU from a memory pool, which reuses a block once its storage is freed."""
    result: Tensor = torch.ops.neurocuda.empty.default(list(sizes), device=device)
    return result


def branch_sum(branches: Sequence[Tensor]) -> Tensor:
    """As `reference.branch_sum`; the result is float32."""
    if len(branches) == 1 and branches[0].dtype == torch.float32:
        return branches[0]
    total: Tensor = torch.ops.neurocuda.branch_sum.default(_fold_excess(branches))
    return total


def _fold_excess(branches: Sequence[Tensor], count: int = MAX_BRANCHES) -> list[Tensor]:
    """At most `count` branches with the same left fold: the sum of the first ones replaces them."""
    branches = list(branches)
    while len(branches) > count:
        branches[:MAX_BRANCHES] = [torch.ops.neurocuda.branch_sum.default(branches[:MAX_BRANCHES])]
    return branches


def neuron(
    branches: Sequence[Tensor],
    c: NeuronCoefficients,
    state: NeuronState,
    surrogate: Surrogate,
    record: Collection[str] = (),
    *,
    dtype: torch.dtype | None = torch.float32,
    packed: bool = False,
) -> tuple[Tensor, NeuronState, dict[str, Tensor]]:
    """As `reference.neuron`, of branches in float32, float16, bfloat16, uint8 or bool and with any strides.

    `dtype` is that of the output; None: that of the branches. In uint8, spike counts saturate at 255. `packed`: the
    output is spikes packed as bits, uint8 [T, ceil(B * shape / 8)], the first neuron in the lowest bit.
    """
    output, v, i, trace_v, trace_i = torch.ops.neurocuda.neuron.default(
        _fold_excess(branches),
        *schema_arguments(c, state),
        dtype,
        packed,
        "v" in record,
        "i" in record,
        surrogate.kind,
        surrogate.slope,
    )
    traces = {"v": trace_v, "i": trace_i}
    after = NeuronState(v, i if c.decay_i is not None else None)
    return output, after, {name: traces[name] for name in record}


def recurrent_neuron(
    branches: Sequence[Tensor],
    place: int,
    weight: Tensor,
    bias: Tensor | None,
    c: NeuronCoefficients,
    state: NeuronState,
    previous: Tensor,
    surrogate: Surrogate,
    record: Collection[str] = (),
    *,
    prepacked: Tensor | None = None,
) -> tuple[Tensor, NeuronState, Tensor, dict[str, Tensor]]:
    """As `reference.recurrent_neuron`, the loop over time in one operator. `prepacked` is `prepack_linear(weight)`."""
    if len(branches) > MAX_BRANCHES:  # only the branches before the recurrent current may be summed first
        branches = [*_fold_excess(branches[:place], 1), *branches[place:]]
        place = min(place, 1)
        if len(branches) > MAX_BRANCHES:
            return reference.recurrent_neuron(branches, place, weight, bias, c, state, previous, surrogate, record)
    before_v, before_i, *coefficients = schema_arguments(c, state)
    output, v, i, spikes, trace_v, trace_i, trace_recurrent = torch.ops.neurocuda.recurrent_neuron.default(
        list(branches),
        place,
        weight,
        bias,
        before_v,
        before_i,
        previous,
        *coefficients,
        torch.float32,
        "v" in record,
        "i" in record,
        "recurrent" in record,
        surrogate.kind,
        surrogate.slope,
        prepack_linear(weight) if prepacked is None else prepacked,
    )
    traces = {"v": trace_v, "i": trace_i, "recurrent": trace_recurrent}
    after = NeuronState(v, i if c.decay_i is not None else None)
    return output, after, spikes, {name: traces[name] for name in record}


def prepack_linear(weight: Tensor) -> Tensor:
    """A float32 weight [*batch, out, in] in the layout of `ordered_linear`'s kernel."""
    prepacked: Tensor = torch.ops.neurocuda.ordered_linear_prepack.default(weight.detach())
    return prepacked


def prepack_conv(weight: Tensor, groups: int) -> Tensor:
    """A float32 weight [C_out, C_in / groups, *kernel] in the layout of `ordered_conv`'s kernel."""
    prepacked: Tensor = torch.ops.neurocuda.ordered_conv_prepack.default(weight.detach(), groups)
    return prepacked


def prepack(weight: Tensor, groups: int | None) -> Tensor:
    """`prepack_linear` where groups is None, otherwise `prepack_conv`."""
    return prepack_linear(weight) if groups is None else prepack_conv(weight, groups)


def ordered_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, prepacked: Tensor | None = None) -> Tensor:
    """As `reference.ordered_linear`, from the dense input or from a list of its spikes."""
    prepacked = prepack_linear(weight) if prepacked is None else prepacked
    result: Tensor = torch.ops.neurocuda.ordered_linear.default(x, weight, bias, prepacked=prepacked)
    return result


def ordered_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Pads,
    dilation: Sequence[int],
    groups: int,
    *,
    prepacked: Tensor | None = None,
) -> Tensor:
    """As `reference.ordered_conv`, from the dense input or from a list of its spikes."""
    flat = [zeros for axis in pads for zeros in axis]
    prepacked = prepack_conv(weight, groups) if prepacked is None else prepacked
    result: Tensor = torch.ops.neurocuda.ordered_conv.default(
        x, weight, bias, list(stride), flat, list(dilation), groups, prepacked=prepacked
    )
    return result


def sum_pool2d(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """As `reference.sum_pool2d`, of x in float32, float16, bfloat16, uint8 or bool; the result is float32."""
    result: Tensor = torch.ops.neurocuda.sum_pool2d.default(x, list(kernel), list(stride), list(padding))
    return result


def avg_pool2d(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """As `reference.avg_pool2d`, of the types of `sum_pool2d`."""
    result: Tensor = torch.ops.neurocuda.avg_pool2d.default(x, list(kernel), list(stride), list(padding))
    return result


def pack_spikes(spikes: Tensor) -> Tensor:
    """Packs spikes [T, B, *shape] (elements other than 0) as bits, uint8 [T, ceil(B * shape / 8)].

    The first neuron is the lowest bit; the last byte of a step is filled with zeros.
    """
    bits: Tensor = torch.ops.neurocuda.pack_spikes.default(spikes)
    return bits


def unpack_spikes(bits: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """The inverse of `pack_spikes`: zeros and ones [T, *shape] for shape = [B, ...]."""
    spikes: Tensor = torch.ops.neurocuda.unpack_spikes.default(bits, list(shape), dtype=dtype)
    return spikes
