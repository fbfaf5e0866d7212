"""What the kernels of populations take, from tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neurocuda.errors import ArgumentError
from neurocuda.ops.coefficients import NeuronCoefficients, NeuronState
from neurocuda.ops.triton import neuron_update
from neurocuda.ops.triton.addressing import READABLE, Order, odd

COEFFICIENTS = ("decay_v", "gain_v", "bias_v", "decay_i", "gain_i", "threshold", "v_reset")

ARGUMENTS = (
    "Tensor v, Tensor? i, Tensor decay_v, Tensor gain_v, Tensor bias_v, Tensor? decay_i, Tensor? gain_i, "
    "Tensor? threshold, Tensor? v_reset, bool reaching, bool subtract, bool previous, bool many"
)
"""Of a population, in the schema of an operator."""


class Population(NamedTuple):
    """A population as operators take it: tensors and flags in the order of `ARGUMENTS`."""

    v: Tensor
    i: Tensor | None
    decay_v: Tensor
    gain_v: Tensor
    bias_v: Tensor
    decay_i: Tensor | None
    gain_i: Tensor | None
    threshold: Tensor | None
    v_reset: Tensor | None
    reaching: bool
    subtract: bool
    previous: bool
    many: bool

    @property
    def fires(self) -> bool:
        return self.threshold is not None

    @property
    def feeds_back(self) -> bool:
        """Spikes come back as the current of the next step: they need no value to reset to."""
        return self.fires and self.v_reset is None

    @property
    def constants(self) -> dict[str, int]:
        """Which update the kernels are compiled for."""
        synapse = neuron_update.PREVIOUS if self.previous else neuron_update.UPDATED
        fires = neuron_update.MANY if self.many else neuron_update.REACHING if self.reaching else neuron_update.ABOVE
        reset = (
            neuron_update.FEEDBACK
            if self.feeds_back
            else neuron_update.SUBTRACT
            if self.subtract
            else neuron_update.TO_VALUE
        )
        return {
            "SYNAPSE": (synapse if self.gain_i is not None else neuron_update.NO_SYNAPSE).value,
            "FIRES": (fires if self.fires else neuron_update.NEVER).value,
            "RESET": reset.value if self.fires else neuron_update.TO_VALUE.value,
        }

    def coefficients(self, order: Order) -> tuple[tuple[Tensor, ...], tuple[int, ...], tuple[int, ...]]:
        """Values, how often each stands on end, how many, these as `odd` gives them.

        In place of those that are not there come some that nobody uses.
        """
        given = [self.gain_v if c is None else c for c in self[2:9]]
        values, inners, counts = zip(*map(order.coefficient, given), strict=True)
        return values, odd(inners), odd(counts)

    def check(self, op: str, branches: Sequence[Tensor]) -> None:
        """Raises `ArgumentError`, also a ValueError, that names what does not fit."""
        check_branches(op, branches)
        there = [tensor is not None for tensor in (self.i, self.decay_i, self.gain_i)]
        _expect(all(there) or not any(there), f"{op}: expected i, decay_i and gain_i, or none of them")
        _expect(self.fires or self.v_reset is None, f"{op}: expected a threshold with v_reset")
        _expect(
            not self.feeds_back or (all(there) and not self.previous and not self.many),
            f"{op}: expected v_reset, or i, decay_i and gain_i as the spikes that come back, with neither previous "
            "nor many",
        )
        shape = branches[0].shape[1:]
        for name, tensor in zip(("v", "i", *COEFFICIENTS), self[:9], strict=True):
            if tensor is None:
                continue
            _expect(tensor.dtype == torch.float32, f"{op}: expected {name} in float32, found {tensor.dtype}")
            _expect(
                tensor.device == branches[0].device,
                f"{op}: expected {name} on {branches[0].device}, found it on {tensor.device}",
            )
            if name in ("v", "i"):
                fits = tensor.shape == shape
            else:
                own = tensor.shape[::-1]
                fits = len(own) <= len(shape) and all(
                    a in (1, b) for a, b in zip(own, shape[::-1][: len(own)], strict=True)
                )
            verb = "of shape" if name in ("v", "i") else "of a shape that broadcasts to"
            _expect(fits, f"{op}: expected {name} {verb} {list(shape)}, found {list(tensor.shape)}")


def population_of(c: NeuronCoefficients, state: NeuronState) -> Population:
    return Population(
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


def check_branches(op: str, branches: Sequence[Tensor]) -> None:
    """Raises `ArgumentError` unless all are readable, of one shape [T, B, *shape], on one device."""
    _expect(len(branches) > 0, f"{op}: expected at least one branch, found none")
    shape = branches[0].shape
    for branch in branches:
        _expect(
            branch.dtype in READABLE,
            f"{op}: expected branches of float32, float16, bfloat16, uint8 or bool, found {branch.dtype}",
        )
        _expect(
            branch.shape == shape,
            f"{op}: expected branches of one shape {list(shape)}, found {list(branch.shape)}",
        )


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise ArgumentError(message)
