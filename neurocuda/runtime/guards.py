"""What a call rests on: values that it uses speculatively, what it checks of them, and whether anything watches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from neurocuda.ops import native
from neurocuda.ops.backends import operators


@dataclass(frozen=True)
class Looks:
    """That tensors have the bits they had then; that weights [out, ...] are whole numbers times the step of their
    output channel; that the input is on grids, each a step, the lowest and the highest value.
    """

    now: list[Tensor] = field(default_factory=list)
    then: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    numbers: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    grids: list[tuple[float, float, float]] = field(default_factory=list)


def together(looks: Sequence[Looks]) -> tuple[list[Any], ...]:
    """All of them, as `neurocuda._C` takes them."""
    fields = ("now", "then", "weights", "numbers", "steps", "grids")
    return tuple([value for look in looks for value in getattr(look, name)] for name in fields)


def recordable(inputs: Collection[Tensor]) -> bool:
    """Whether nothing else watches what happens to these tensors: autograd, a transform, a mode, a subclass."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and not any(torch.is_autocast_enabled(device) for device in {t.device.type for t in inputs})
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and all(type(t) is Tensor or type(t) is torch.nn.Parameter for t in inputs)
    )


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
        and all(operators(place) is native for place in {x.device for x in inputs})
    )
