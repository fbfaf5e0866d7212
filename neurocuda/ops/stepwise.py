"""Populations whose choices no kernel has (a delayed reset, a clamp), step by step in torch, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from neurocuda.ops import reference
from neurocuda.ops.coefficients import NeuronCoefficients, NeuronState
from neurocuda.ops.surrogate import Surrogate

_UINT8_MOST = 255


def neuron(
    branches: Sequence[Tensor],
    c: NeuronCoefficients,
    state: NeuronState,
    surrogate: Surrogate,
    record: Collection[str] = (),
    *,
    dtype: torch.dtype | None = torch.float32,
) -> tuple[Tensor, NeuronState, dict[str, Tensor]]:
    """As `native.neuron`, without packed bits."""
    output, after, traces = reference.neuron(_floats(branches), c, state, surrogate, record)
    if dtype == torch.uint8:
        output = output.clamp(max=_UINT8_MOST)
    return output if dtype is None else output.to(dtype), after, traces


def recurrent_neuron(
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    branches: Sequence[Tensor],
    place: int,
    weight: Tensor,
    bias: Tensor | None,
    c: NeuronCoefficients,
    state: NeuronState,
    previous: Tensor,
    surrogate: Surrogate,
    record: Collection[str] = (),
) -> tuple[Tensor, NeuronState, Tensor, dict[str, Tensor]]:
    """As `reference.recurrent_neuron`, with a backend's `ordered_linear`."""
    return reference.recurrent_neuron(
        _floats(branches), place, weight, bias, c, state, previous, surrogate, record, linear=linear
    )


def _floats(branches: Sequence[Tensor]) -> list[Tensor]:
    return [branch.float() for branch in branches]
