"""What a call on a GPU supposes of values, so that nobody waits for them: the GPU looks while it computes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from neurocuda.ops import compiled
from neurocuda.ops.backends import operators
from neurocuda.ops.looks import Looks
from neurocuda.ops.recording import recordable

Value = TypeVar("Value")


@dataclass(frozen=True)
class Supposed(Generic[Value]):
    """A value that holds while something is so.

    so: waits for the look that was asked for, and says whether it is; where it is not, the results of the call are
    wrong, and it is made again. looks: what a later call looks at, while the parameters lie where they lay.
    """

    value: Value
    so: Callable[[], bool]
    looks: Looks


def certain(value: Value) -> Supposed[Value]:
    """A value that supposes nothing."""
    return Supposed(value, lambda: True, Looks())


def alone_on(device: str, inputs: Collection[Tensor]) -> bool:
    """Whether a call runs on the compiled operators of a "cpu" or "cuda" device, and nothing watches, which would see
    what was supposed of one call, or chosen for it, for what holds of all.
    """
    return (
        all(x.device.type == device for x in inputs)
        and recordable(inputs)
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not (device == "cuda" and torch.cuda.is_current_stream_capturing())
        and all(operators(place) is compiled for place in {x.device for x in inputs})
    )
