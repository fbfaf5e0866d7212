"""The arguments of the neuron operators, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neurocuda.errors import ArgumentError
from neurocuda.ops.triton import neuron_update
from neurocuda.ops.triton.addressing import READABLE, Order, odd

COEFFICIENTS = ("decay_v", "gain_v", "bias_v", "decay_i", "gain_i", "threshold", "v_reset", "v_min")

ARGUMENTS = (
    "Tensor v, Tensor? i, Tensor decay_v, Tensor gain_v, Tensor bias_v, Tensor? decay_i, Tensor? gain_i, "
    "Tensor? threshold, Tensor? v_reset, Tensor? v_min, bool reaching, bool subtract, bool previous, bool many, "
    "bool late"
)
"""State, coefficients and flags in the schema of an operator, in the order of `schema_arguments`."""


class NeuronArgs(NamedTuple):
    """State, coefficients and flags of a population, in the order of `ARGUMENTS`."""

    v: Tensor
    i: Tensor | None
    decay_v: Tensor
    gain_v: Tensor
    bias_v: Tensor
    decay_i: Tensor | None
    gain_i: Tensor | None
    threshold: Tensor | None
    v_reset: Tensor | None
    v_min: Tensor | None
    reaching: bool
    subtract: bool
    previous: bool
    many: bool
    late: bool

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """State and coefficients."""
        return (
            self.v, self.i, self.decay_v, self.gain_v, self.bias_v, self.decay_i, self.gain_i, self.threshold,
            self.v_reset, self.v_min,
        )  # fmt: skip

    @property
    def fires(self) -> bool:
        return self.threshold is not None

    @property
    def feeds_back(self) -> bool:
        """Whether the spikes become the synaptic current of the next step (reset "feedback"): v_reset is None."""
        return self.fires and self.v_reset is None

    @property
    def constants(self) -> dict[str, int]:
        """The constants that select the update at compile time (see `neuron_update`)."""
        synapse = neuron_update.PREVIOUS if self.previous else neuron_update.UPDATED
        fires = neuron_update.MANY if self.many else neuron_update.REACHING if self.reaching else neuron_update.ABOVE
        reset = neuron_update.SUBTRACT if self.subtract else neuron_update.TO_VALUE
        reset = neuron_update.FEEDBACK if self.feeds_back else reset
        return {
            "SYNAPSE": (synapse if self.gain_i is not None else neuron_update.NO_SYNAPSE).value,
            "FIRES": (fires if self.fires else neuron_update.NEVER).value,
            "RESET": reset.value if self.fires else neuron_update.TO_VALUE.value,
            "LATE": int(self.late),
            "BOUNDED": int(self.v_min is not None),
        }

    def coefficients(self, order: Order) -> tuple[tuple[Tensor, ...], tuple[int, ...], tuple[int, ...]]:
        """Tensors, inners and counts for `coefficients_at`. gain_v replaces a missing one, which no kernel uses."""
        tensors = [self.gain_v if c is None else c for c in self.tensors[2:]]
        elements, inners, counts = zip(*map(order.coefficient, tensors), strict=True)
        return elements, odd(inners), odd(counts)

    def check(self, op: str, branches: Sequence[Tensor]) -> None:
        """Raises `ArgumentError` for tensors of a wrong dtype, shape or device, or a wrong combination."""
        check_branches(op, branches)
        synapse = [tensor is not None for tensor in (self.i, self.decay_i, self.gain_i)]
        _expect(all(synapse) or not any(synapse), f"{op}: expected i, decay_i and gain_i, or none of them")
        _expect(self.fires or self.v_reset is None, f"{op}: expected a threshold with v_reset")
        _expect(
            not self.feeds_back or (all(synapse) and not self.previous and not self.many),
            f"{op}: expected v_reset, or i, decay_i and gain_i as the spikes that come back, with neither previous "
            "nor many",
        )
        resets = self.fires and not self.feeds_back
        _expect(self.v_min is None or resets, f"{op}: expected a threshold and v_reset with v_min")
        _expect(
            not self.late or (resets and not self.many),
            f"{op}: expected a threshold and v_reset, and no many, with late",
        )
        shape = branches[0].shape[1:]
        for name, tensor in zip(("v", "i", *COEFFICIENTS), self.tensors, strict=True):
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
                sizes = zip(tensor.shape[::-1], shape[::-1], strict=False)
                fits = tensor.dim() <= len(shape) and all(own in (1, size) for own, size in sizes)
            verb = "of shape" if name in ("v", "i") else "of a shape that broadcasts to"
            _expect(fits, f"{op}: expected {name} {verb} {list(shape)}, found {list(tensor.shape)}")


COUNT = len(NeuronArgs._fields)
"""State, coefficients and flags."""
TENSORS = 2 + len(COEFFICIENTS)
"""State and coefficients, the first of them."""


def check_branches(op: str, branches: Sequence[Tensor]) -> None:
    """Raises `ArgumentError` unless all branches have a readable dtype and the same shape [T, B, *shape]."""
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
