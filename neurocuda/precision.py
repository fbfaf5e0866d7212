"""The parameters of neurons keep their type when a module changes that of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn


def keep_types(module: nn.Module, names: Collection[str], move: Callable[[], object]) -> None:
    """Call `move`, which may move and convert all that a module holds; what has these names is moved alone.

    The values and gradients of these parameters and buffers are not rounded on the way.
    """
    tensors = {name: getattr(module, name) for name in names}
    kept = {
        name: (tensor.detach().clone(), None if tensor.grad is None else tensor.grad.clone())
        for name, tensor in tensors.items()
    }
    move()
    for name, (value, gradient) in kept.items():
        after = getattr(module, name)
        if after.dtype != value.dtype:
            after.grad = None
            after.data = value.to(after.device)
            after.grad = None if gradient is None else gradient.to(after.device)
