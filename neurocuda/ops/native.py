"""The compiled operators, with the signatures of `reference`, whose bits they equal. See `backends` for the choice."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from neurocuda.ops import reference
from neurocuda.ops.coefficients import NeuronCoefficients, NeuronState
from neurocuda.ops.reference import Pads
from neurocuda.ops.surrogate import Surrogate

_MOST = 8
"""Branches that one call sums."""


def all_finite(x: Tensor) -> bool:
    """Whether every number is finite."""
    result: bool = importlib.import_module("neurocuda._C").all_finite(x)
    return result


def ask_finite(signals: Sequence[Tensor]) -> Callable[[], bool]:
    """As `reference.ask_finite`; a GPU looks while more is launched, and the answer waits for that look alone."""
    asked = answer()
    asked.ask_finite(list(signals))
    wait: Callable[[], bool] = asked.wait
    return wait


def answer() -> Any:
    """Takes questions about values, and answers all of them at once."""
    return importlib.import_module("neurocuda._C").Answer()


def empty(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Memory for float32 values, on the CPU from a pool that takes it back once no tensor uses it."""
    result: Tensor = torch.ops.neurocuda.empty.default(list(sizes), device=device)
    return result


def branch_sum(branches: Sequence[Tensor]) -> Tensor:
    """The sum of one or more branches, left fold in the order given, in float32."""
    if len(branches) == 1 and branches[0].dtype == torch.float32:
        return branches[0]
    total: Tensor = torch.ops.neurocuda.branch_sum.default(_at_most(_MOST, branches))
    return total


def _at_most(most: int, branches: Sequence[Tensor]) -> list[Tensor]:
    """The branches, the first of them summed where they are too many for one call: a left fold all the same."""
    branches = list(branches)
    while len(branches) > most:
        branches[:_MOST] = [torch.ops.neurocuda.branch_sum.default(branches[:_MOST])]
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
    """Sum the branches and update the population over T steps.

    Branches are float32, float16, bfloat16, uint8 or bool, of any strides. Returns the output [T, B, *shape], the
    state after the last step, and, for each of "v" and "i" in `record`, its values after every step. `dtype` is
    the type of the output, None for that of the branches; counts of spikes above 255 become 255 in uint8. Where
    `packed`, the output is bits, uint8 [T, ceil(B * shape / 8)], the first neuron in the lowest bit.
    """
    output, v, i, trace_v, trace_i = torch.ops.neurocuda.neuron.default(
        _at_most(_MOST, branches),
        *_population(c, state),
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
    packed: Tensor | None = None,
) -> tuple[Tensor, NeuronState, Tensor, dict[str, Tensor]]:
    """As `reference.recurrent_neuron`, the whole loop over time in one call. `packed` is `pack_linear(weight)`."""
    if len(branches) > _MOST:  # they stand around the recurrent current: only those before it may be summed first
        branches = [*_at_most(1, branches[:place]), *branches[place:]]
        place = min(place, 1)
        if len(branches) > _MOST:
            return reference.recurrent_neuron(branches, place, weight, bias, c, state, previous, surrogate, record)
    before_v, before_i, *population = _population(c, state)
    output, v, i, spikes, trace_v, trace_i, trace_recurrent = torch.ops.neurocuda.recurrent_neuron.default(
        list(branches),
        place,
        weight,
        bias,
        before_v,
        before_i,
        previous,
        *population,
        torch.float32,
        "v" in record,
        "i" in record,
        "recurrent" in record,
        surrogate.kind,
        surrogate.slope,
        pack_linear(weight) if packed is None else packed,
    )
    traces = {"v": trace_v, "i": trace_i, "recurrent": trace_recurrent}
    after = NeuronState(v, i if c.decay_i is not None else None)
    return output, after, spikes, {name: traces[name] for name in record}


def pack_linear(weight: Tensor) -> Tensor:
    """The weights as `ordered_linear` reads them: by itself, so that they can be kept."""
    packed: Tensor = torch.ops.neurocuda.ordered_linear_pack.default(weight.detach())
    return packed


def pack_conv(weight: Tensor, groups: int) -> Tensor:
    """The weights as `ordered_conv` reads them."""
    packed: Tensor = torch.ops.neurocuda.ordered_conv_pack.default(weight.detach(), groups)
    return packed


def pack(weight: Tensor, groups: int | None) -> Tensor:
    """One or the other: a matrix has no groups."""
    return pack_linear(weight) if groups is None else pack_conv(weight, groups)


def ordered_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, packed: Tensor | None = None) -> Tensor:
    """As `reference.ordered_linear`, densely or from the list of spikes: the same bits."""
    packed = pack_linear(weight) if packed is None else packed
    result: Tensor = torch.ops.neurocuda.ordered_linear.default(x, weight, bias, packed=packed)
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
    packed: Tensor | None = None,
) -> Tensor:
    """As `reference.ordered_conv`, densely or from the list of spikes: the same bits."""
    flat = [zeros for axis in pads for zeros in axis]
    packed = pack_conv(weight, groups) if packed is None else packed
    result: Tensor = torch.ops.neurocuda.ordered_conv.default(
        x, weight, bias, list(stride), flat, list(dilation), groups, packed=packed
    )
    return result


def sum_pool2d(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """As `reference.sum_pool2d`, of x in float32, float16, bfloat16, uint8 or bool; the result is float32."""
    result: Tensor = torch.ops.neurocuda.sum_pool2d.default(x, list(kernel), list(stride), list(padding))
    return result


def avg_pool2d(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """`sum_pool2d` divided by the full area of the kernel, padding included."""
    result: Tensor = torch.ops.neurocuda.avg_pool2d.default(x, list(kernel), list(stride), list(padding))
    return result


def pack_spikes(spikes: Tensor) -> Tensor:
    """Spikes [T, B, *shape] as bits, uint8 [T, ceil(B * shape / 8)]: the first neuron in the lowest bit, zeros last.

    Any value but zero is a spike.
    """
    bits: Tensor = torch.ops.neurocuda.pack_spikes.default(spikes)
    return bits


def unpack_spikes(bits: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """The reverse of `pack_spikes`: zeros and ones [T, *shape], with shape [B, *shape] of the spikes."""
    spikes: Tensor = torch.ops.neurocuda.unpack_spikes.default(bits, list(shape), dtype=dtype)
    return spikes


def _population(c: NeuronCoefficients, state: NeuronState) -> tuple[Tensor | bool | None, ...]:
    """What the operators take after the branches, by position: names cost microseconds."""
    return (
        state.v,
        state.i if c.decay_i is not None else None,
        c.decay_v,
        c.gain_v,
        c.bias_v,
        c.decay_i,
        c.gain_i,
        c.threshold,
        c.v_reset,
        c.spike_when == "reaching",
        c.reset == "subtract",
        c.synapse == "previous",
        c.spikes_per_step == "many",
    )
